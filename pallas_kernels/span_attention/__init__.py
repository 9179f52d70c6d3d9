# SPDX-License-Identifier: Apache-2.0
"""Attention in which every query sees one interval of keys."""

from pallas_kernels.span_attention.api import span_attention

__all__ = ['span_attention']
