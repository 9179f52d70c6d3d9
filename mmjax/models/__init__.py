# SPDX-License-Identifier: Apache-2.0
"""Encoders, connectors, fusion, decoder: what a system composes."""
