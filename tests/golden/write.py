# SPDX-License-Identifier: Apache-2.0
"""Writes references of our own, by transformers: python tests/golden/write.py [NAME...]

Each case of golden_cases.py becomes NAME.safetensors: a tiny model with random weights under the names of its public
checkpoint (w/), inputs (in/), what the model computed from them in float32 (out/), and as metadata class, config and
the noise of each output, max|float32 - float64| / max|float64|. tests/parity/check.py reads these files; the tests need
neither torch nor transformers, this script needs the extra `parity`.
"""

import argparse
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import torch
import transformers
from golden_cases import CASES, Case
from safetensors.numpy import load_file, save_file

FOLDER = pathlib.Path(__file__).resolve().parent / 'references'


def build(case: Case) -> Any:
    """Returns the model with weights that make every bias, norm and gate matter."""
    kind = getattr(transformers, case.kind)
    config = kind.config_class(**case.config)
    config._attn_implementation = 'eager'
    torch.manual_seed(case.seed)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and not case.keeps(name):
                weight.normal_(std=weight[0].numel() ** -0.5)
            elif not case.keeps(name):
                weight.add_(0.2 * torch.randn_like(weight))
    return model


def compute(model: Any, case: Case, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the outputs of the case, in the float type of the model."""
    dtype = next(model.parameters()).dtype
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    with torch.no_grad():
        out = model(**tensors, **case.arguments)
    return {name: np.asarray(read(out).cpu()) for name, read in case.outputs.items()}


def write(name: str, case: Case) -> pathlib.Path:
    """Writes one reference; returns its path."""
    model = build(case)
    inputs = case.inputs(np.random.default_rng(case.seed))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(pathlib.Path(folder) / 'model.safetensors')
        config = json.loads((pathlib.Path(folder) / 'config.json').read_text())
    outputs = compute(model, case, inputs)
    exact = compute(model.double(), case, inputs) if case.doubles else {}
    # In float64 rows that see nothing, padding on the left, are no numbers in transformers: those state no noise.
    exact = {key: array for key, array in exact.items() if np.isfinite(array).all()}
    noise = {key: float(np.abs(outputs[key] - x).max() / np.abs(x).max()) for key, x in exact.items()}
    metadata = {'class': case.kind, 'config': json.dumps(config), 'noise': json.dumps(noise)}
    metadata['note'] = f'{case.note}; transformers {transformers.__version__}, torch {torch.__version__}, eager, CPU'
    tensors = {f'w/{key}': tensor for key, tensor in weights.items()}
    tensors |= {f'in/{key}': array for key, array in inputs.items()}
    tensors |= {f'out/{key}': array for key, array in outputs.items()}
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f'{name}.safetensors'
    save_file({key: np.array(array, order='C') for key, array in sorted(tensors.items())}, path, metadata)
    return path


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'which (default all): {", ".join(CASES)}')
    for wanted in parser.parse_args().names or CASES:
        written = write(wanted, CASES[wanted])
        print(f'{written.name}  {written.stat().st_size:,} bytes')
