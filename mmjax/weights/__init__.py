# SPDX-License-Identifier: Apache-2.0
"""Public checkpoints in and out: files, name tables and one module for each public layout.

A layout's module has `config(public)`, which turns a config.json into our config, and `table(config)`, the names of its
tensors. `to_ours` reads a checkpoint, `to_public` writes one:

    checkpoint = Checkpoint('llava-1.5-7b-hf')
    config = llava.config(checkpoint.config())
    params, account = to_ours(llava.table(config), checkpoint, shapes(config.build))
"""

from mmjax.weights.files import Checkpoint, save
from mmjax.weights.table import Account, Entry, Table, WeightsError, shapes, to_ours, to_public

__all__ = ['Account', 'Checkpoint', 'Entry', 'Table', 'WeightsError', 'save', 'shapes', 'to_ours', 'to_public']
