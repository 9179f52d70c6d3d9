# SPDX-License-Identifier: Apache-2.0
"""Topologies to compile for."""

import importlib.util

import pytest

from mmjax import topology


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[plan\]'"):
        topology.devices('v5e:2x2')
