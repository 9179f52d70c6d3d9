# SPDX-License-Identifier: Apache-2.0
"""Text out: prompts become answers, greedily, by drawing or by beam search, under rules of what may be written."""
