# SPDX-License-Identifier: Apache-2.0
"""What is minimised: each file turns a model and a batch into sums of losses and weights."""
