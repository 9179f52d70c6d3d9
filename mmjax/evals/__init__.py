# SPDX-License-Identifier: Apache-2.0
"""What makes an answer right: metrics, the examples shown before a question, and the control without its picture."""
