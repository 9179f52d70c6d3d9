# SPDX-License-Identifier: Apache-2.0
"""Data: sources of documents, and all that turns documents into batches. numpy only, no jax."""
