# SPDX-License-Identifier: Apache-2.0
"""The loss of predicting tokens, straight from hidden states and the table of the vocabulary."""

from pallas_kernels.cross_entropy.api import cross_entropy
from pallas_kernels.cross_entropy.fused import Scores

__all__ = ['Scores', 'cross_entropy']
