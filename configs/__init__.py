# SPDX-License-Identifier: Apache-2.0
"""Runs: one file a system, which composes parts of `mmjax`, names data and states numbers."""
