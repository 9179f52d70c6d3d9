# SPDX-License-Identifier: Apache-2.0
"""Attention in which every query sees one interval of keys."""

from pallas_kernels.span_attention.api import planner, span_attention
from pallas_kernels.span_attention.tiles import Planned, plain

__all__ = ['Planned', 'plain', 'planner', 'span_attention']
