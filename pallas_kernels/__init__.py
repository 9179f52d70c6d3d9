# SPDX-License-Identifier: Apache-2.0
"""Fused kernels, one folder each: the public function chooses, the reference defines."""
