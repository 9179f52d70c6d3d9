# SPDX-License-Identifier: Apache-2.0
"""Compares one training step of the quickstart model with the same model in plain PyTorch, on this machine's CPU.

    pip install -e '.[parity]' && python benchmarks/vs_torch.py

Both read the same packed batch with the same weights; the losses are printed so that one sees it is the same model.
They take turns of a few steps each, and the ratio of the medians is printed. Threads: what each framework chooses.
"""

import argparse
import time

import jax
import numpy as np
import torch
import torch.nn.functional as F

from configs import quickstart
from mmjax import host, sharding
from mmjax.data.pipeline import Pipeline
from mmjax.feed import to_global
from mmjax.objectives.next_token import NextToken
from mmjax.params import Skeleton, flatten
from mmjax.step import build_update, compile_update, init_state

STEPS = 5  # a turn


class Torch:
    """The quickstart model as one would write it in PyTorch: modules unrolled, fused attention, AdamW."""

    def __init__(self, params: dict[str, np.ndarray], model, adamw, batch):
        self.p = {path: torch.nn.Parameter(torch.from_numpy(np.array(w))) for path, w in params.items()}
        self.model = model
        betas, decay = (adamw.b1, adamw.b2), adamw.weight_decay
        self.optimizer = torch.optim.AdamW(self.p.values(), lr=1e-3, betas=betas, weight_decay=decay, fused=True)
        tensor = lambda a: torch.from_numpy(np.array(a))
        self.tokens, self.slot = tensor(batch.tokens).long(), tensor(batch.slot).long()
        self.position, self.weight = tensor(batch.position).long(), tensor(batch.weight)
        span, keys = tensor(batch.span), torch.arange(batch.tokens.shape[1])
        mask = (span[..., :1] <= keys) & (keys < span[..., 1:])
        self.empty = ~mask.any(-1)
        # A row of padding sees itself: softmax over nothing is NaN in PyTorch, and its output counts nowhere.
        mask[self.empty] |= torch.eye(len(keys), dtype=torch.bool)[None].expand_as(mask)[self.empty]
        self.mask = mask[:, None]
        self.pixels = tensor(batch.pixels)

    def step(self) -> torch.Tensor:
        """Takes one step and returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.p.values(), 1.0)
        self.optimizer.step()
        return loss

    def loss(self) -> torch.Tensor:
        """Returns the weighted mean next-token loss."""
        c, table = self.model.decoder, self.p['decoder/embed/table']
        text = table[self.tokens] * c.embed_scale
        media = self.pictures()
        picked = torch.gather(media, 1, self.slot.clamp(min=0)[..., None].expand(-1, -1, media.shape[-1]))
        x = torch.where((self.slot >= 0)[..., None], picked, text)
        x = self.blocks('decoder', x, c, self.mask, self.position)
        x = self.norm('decoder/norm/scale', x)
        logits = x @ table[: c.vocab].T
        labels = torch.roll(self.tokens, -1, 1)
        nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='none')
        return (nll * self.weight.flatten()).sum() / self.weight.sum()

    def pictures(self) -> torch.Tensor:
        """Returns the media tokens [B, M * P, D]."""
        c, (b, m) = self.model.encoder, self.pixels.shape[:2]
        x = (self.pixels.float() / 255 - torch.tensor(c.mean)) / torch.tensor(c.std)
        x = x.reshape(b * m, *x.shape[-3:])
        for i in range(len(c.stem)):
            x = F.relu(windows(x, 2, 1) @ self.p[f'encoder/stem/{i}/kernel'] + self.p[f'encoder/stem/{i}/bias'])
        x = windows(x, x.shape[1] // c.grid[0], c.overlap).flatten(1, 2)
        x = x @ self.p['encoder/patch/kernel'] + self.p['encoder/patch/bias'] + self.p['encoder/position/table']
        x = self.norm('encoder/norm/scale', self.blocks('encoder', x, c, None, None))
        x = windows(x.unflatten(1, c.grid), self.model.connector.merge, 0).flatten(1, 2)
        x = x @ self.p['connector/linear/kernel'] + self.p['connector/linear/bias']
        return x.reshape(b, -1, x.shape[-1])

    def blocks(self, part: str, x, c, mask, position) -> torch.Tensor:
        """Runs the blocks of a part."""
        for i in range(c.depth):
            w = lambda name, i=i: self.p[f'{part}/blocks/{name}'][i]
            h = self.normed(w('attn_norm/scale'), x)
            q, k, v = (torch.einsum('bld,dnh->bnlh', h, w(f'attn/{n}/kernel')) for n in 'qkv')
            if position is not None:
                q, k = rotate(q, position), rotate(k, position)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + torch.einsum('bnlh,nhd->bld', y, w('attn/o/kernel'))
            h = self.normed(w('mlp_norm/scale'), x)
            x = x + F.relu(h @ w('mlp/up/kernel')) @ w('mlp/down/kernel')
        return x

    def norm(self, path: str, x: torch.Tensor) -> torch.Tensor:
        """Applies the norm whose scale stands at a path."""
        return self.normed(self.p[path], x)

    def normed(self, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Applies an RMS norm."""
        return F.rms_norm(x, (x.shape[-1],), scale, eps=1e-5)


def windows(x: torch.Tensor, patch: int, reach: int) -> torch.Tensor:
    """Cuts [N, h, w, C] into patches with those round each one beside it, [N, rows, columns, E]."""
    n, rows, columns, channels = x.shape[0], x.shape[1] // patch, x.shape[2] // patch, x.shape[3]
    x = x.reshape(n, rows, patch, columns, patch, channels).permute(0, 1, 3, 2, 4, 5).flatten(3)
    if not reach:
        return x
    x = F.pad(x, (0, 0, reach, reach, reach, reach))
    steps = range(2 * reach + 1)
    return torch.cat([x[:, i : i + rows, j : j + columns] for i in steps for j in steps], -1)


def rotate(x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Applies rotary positions to [b, n, l, h]."""
    half = x.shape[-1] // 2
    angle = position[:, None, :, None] * 10000.0 ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def main() -> None:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--turns', type=int, default=10)
    turns = parser.parse_args().turns
    host.keep_memory()  # as `mmjax train` does on CPUs
    run = quickstart.get_config()
    stage, mesh = run.stages[-1], sharding.make_mesh()
    batch, _ = next(Pipeline(stage.data, run.layout.build(run.model.media_spec()), stage.rows, run.seed))
    with sharding.use(mesh):
        model = sharding.init_sharded(lambda rngs: run.model.build(rngs=rngs), jax.random.key(0), mesh)
        params = flatten(model)
        other = Torch(params, run.model, stage.optimizer, batch)
        optimizer = stage.optimizer.build(params, stage.steps)
        state, fed = init_state(optimizer, params, 0), to_global(batch, mesh)
        update = build_update(Skeleton(model), optimizer, NextToken(), compute_dtype='float32')
        ours, _ = compile_update(update, state, {}, fed)
        print(f'loss before the first step: torch {other.step().item():.6f}', end='')

        def jax_step() -> float:
            nonlocal state
            state, metrics = ours(state, {}, fed)
            return float(metrics['loss'] / metrics['weight'])

        print(f', mmjax {jax_step():.6f}')
        times: dict[str, list[float]] = {'mmjax': [], 'torch': []}
        for _ in range(turns):
            for name, step in (('mmjax', jax_step), ('torch', lambda: other.step().item())):
                step()  # the other one's threads come to rest
                for _ in range(STEPS):
                    start = time.perf_counter()
                    step()
                    times[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * float(np.median(t)) for name, t in times.items()}
    print(
        f'median of {turns * STEPS} steps: mmjax {ms["mmjax"]:.1f} ms, torch {torch.__version__} {ms["torch"]:.1f} ms'
    )
    print(f'mmjax is {ms["torch"] / ms["mmjax"]:.2f} times as fast')


if __name__ == '__main__':
    main()
