# SPDX-License-Identifier: Apache-2.0
"""The parts that models are made of: jax only, no data."""
