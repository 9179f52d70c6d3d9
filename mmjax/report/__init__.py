# SPDX-License-Identifier: Apache-2.0
"""What a run leaves to look at: results as JSON, one page with curves, answers and boxes, and pictures of them."""
