# SPDX-License-Identifier: Apache-2.0
"""Compares training and greedy decoding with transformers in PyTorch: the same models and weights, on one CPU core.

    pip install -e '.[parity]' && python benchmarks/vs_transformers.py llava blip2 flamingo

LLaVA, BLIP-2 on OPT and IDEFICS (Flamingo on LLaMA), width 512, 8 layers, float32, 8 rows of 256 tokens. transformers
makes the model and saves it; ours is read from what it saved. That both do the same work is checked: the trainable
parameters are as many, the losses equal before and after updates, and so are all decoded tokens. Each trains what its
paper trains (LLaVA: connector and language model; the others: what lies between frozen towers and words), by AdamW with
clipping. Both take turns; the figures are medians of CPU time. What malloc gives back is kept for both.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS, LENGTH, WRITTEN = 8, 256, 64  # the last tokens of a row are those that decoding writes
WIDTH, DEPTH, HEADS, VOCAB, IMAGE, SIDE = 512, 8, 8, 8192, 8191, 112
TOWER = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4)
TOWER |= dict(image_size=SIDE, patch_size=14)
TEXT = dict(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
TEXT |= dict(max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2)
LLAMA = dict(TEXT, intermediate_size=1376)
OPT = dict(TEXT, model_type='opt', ffn_dim=4 * WIDTH, word_embed_proj_dim=WIDTH, dropout=0.0)
QFORMER = dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, vocab_size=64)
QFORMER |= dict(encoder_hidden_size=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
PERCEIVER = dict(use_resampler=True, resampler_n_latents=32, resampler_depth=2, resampler_n_heads=4)
PERCEIVER |= dict(resampler_head_dim=64)


@dataclasses.dataclass
class System:
    """A system as both sides know it."""

    kind: str  # the public class
    config: dict[str, Any]
    places: int  # of a row's pictures among its words
    media: int  # pictures a row
    trainable: tuple[str, ...]  # paths of ours
    frozen: str  # names of theirs, a regular expression


SYSTEMS = {
    'llava': System(
        'LlavaForConditionalGeneration',
        dict(
            text_config=dict(LLAMA, model_type='llama'),
            vision_config=dict(TOWER, model_type='clip_vision_model'),
            image_token_index=IMAGE,
            image_seq_length=64,
        ),
        places=64,
        media=1,
        trainable=('connector/.*', 'decoder/.*'),
        frozen=r'.*vision_tower\..*',
    ),
    'blip2': System(
        'Blip2ForConditionalGeneration',
        dict(vision_config=TOWER, qformer_config=QFORMER, text_config=OPT)
        | dict(num_query_tokens=32, image_token_index=IMAGE),
        places=32,
        media=1,
        trainable=('connector/.*',),
        frozen=r'(vision_model|language_model)\..*',
    ),
    'flamingo': System(
        'IdeficsForVisionText2Text',
        dict(LLAMA, additional_vocab_size=0, cross_layer_interval=2, use_resampler=True, perceiver_config=PERCEIVER)
        | dict(vision_config=dict(TOWER, embed_dim=256)),
        places=0,
        media=2,
        trainable=('connector/.*', 'decoder/xattn/.*'),
        frozen=r'(?!.*(perceiver|gated_cross)).*',
    ),
}


def spoken(system: System) -> dict[str, np.ndarray]:
    """Returns what is read: ids [B, L], pixels [B, M, 3, height, width], which pictures a token sees [B, L, M]."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, IMAGE, (ROWS, LENGTH))
    ids[:, : system.places] = IMAGE
    # A token sees the last picture at or before it; they stand evenly.
    last = np.arange(LENGTH) * system.media // LENGTH
    seen = np.broadcast_to(last[:, None] == np.arange(system.media), (ROWS, LENGTH, system.media))
    pixels = rng.standard_normal((ROWS, system.media, 3, SIDE, SIDE)).astype(np.float32)
    return dict(ids=ids, pixels=pixels, seen=seen)


class Theirs:
    """The model in PyTorch: attention by its fused kernel, AdamW by its own."""

    def __init__(self, system: System, adamw: Any):
        import torch
        import transformers

        kind = getattr(transformers, system.kind)
        torch.manual_seed(0)
        self.model = kind._from_config(kind.config_class(**system.config), attn_implementation='sdpa')
        # So large that biases, norms and gates matter, and that no two words have the same score.
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.ndim >= 2:
                    weight.normal_(std=weight[0].numel() ** -0.5)
                else:
                    weight.add_(0.2 * torch.randn_like(weight))
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(not re.fullmatch(system.frozen, name))
        self.learnt = [weight for weight in self.model.parameters() if weight.requires_grad]
        betas = (adamw.b1, adamw.b2)
        self.optimizer = torch.optim.AdamW(self.learnt, lr=adamw.peak_lr, betas=betas, weight_decay=0.0, fused=True)
        self.clip, said = adamw.clip, spoken(system)
        # The public classes of one picture a row have no axis for pictures.
        pixels = torch.from_numpy(said['pixels'] if system.media > 1 else said['pixels'][:, 0])
        self.inputs = dict(input_ids=torch.from_numpy(said['ids']), pixel_values=pixels)
        if not system.places:
            self.inputs['image_attention_mask'] = torch.from_numpy(said['seen'].astype(np.int64))
        labels = said['ids'].copy()
        labels[:, : system.places] = -100
        self.labels = torch.from_numpy(labels)
        prompt = dict(self.inputs)
        for name in {'input_ids', 'image_attention_mask'} & prompt.keys():
            prompt[name] = prompt[name][:, :-WRITTEN]
        # Nothing ends an answer before its 64 tokens.
        how = dict(do_sample=False, max_new_tokens=WRITTEN, use_cache=True, eos_token_id=None, pad_token_id=0)
        language = getattr(self.model, 'language_model', None)
        for part in filter(None, (self.model, language)):
            if getattr(part, 'generation_config', None) is not None:
                part.generation_config.eos_token_id = None
        self.prompt = dict(prompt, attention_mask=torch.ones_like(prompt['input_ids']), **how)

    def step(self) -> float:
        """Takes one step and returns the loss before it."""
        import torch

        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(**self.inputs, labels=self.labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learnt, self.clip)
        self.optimizer.step()
        return loss.item()

    def write(self, tokens: int = WRITTEN) -> np.ndarray:
        """Returns the tokens that it writes to each prompt [B, tokens]."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            return self.model.generate(**{**self.prompt, 'max_new_tokens': tokens})[:, -tokens:].numpy()


class Ours:
    """The same model here, read from the folder that transformers saved."""

    def __init__(self, system: System, adamw: Any, folder: pathlib.Path):
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from mmjax.batch import Batch
        from mmjax.decode.generate import Rules
        from mmjax.objectives.next_token import NextToken
        from mmjax.optim import split
        from mmjax.params import Skeleton
        from mmjax.step import build_update, compile_update, init_state
        from mmjax.weights import Checkpoint, architectures, shapes, to_ours

        public = json.loads((folder / 'config.json').read_text())
        architecture, tensors = architectures.read(public, folder), Checkpoint(folder)
        config = architecture.config(public)
        params, _ = to_ours(architecture.table(config, public, set(tensors)), tensors, shapes(config.build))
        skeleton = Skeleton(jax.eval_shape(lambda: config.build(rngs=nnx.Rngs(0))))
        params = {path: jnp.asarray(array) for path, array in params.items()}
        self.train, self.frozen = split(params, system.trainable)
        said, tokens = spoken(system), config.media_spec().tokens
        place = np.arange(LENGTH, dtype=np.int32)
        row = lambda x: np.broadcast_to(x, (ROWS, *x.shape)).astype(np.int32)
        grid = np.array([1, *config.encoder.grid])
        seen = np.arange(LENGTH) * system.media // LENGTH
        batch = Batch(
            tokens=said['ids'].astype(np.int32),
            # The token before counts its label: none is a place of a picture.
            weight=row(place >= system.places - 1).astype(np.float32),
            span=row(np.stack([0 * place, place + 1], axis=-1)),
            position=row(place),
            slot=row(np.where(place < system.places, place, -1)) if system.places else None,
            media_span=None if system.places else row(np.stack([seen, seen + 1], axis=-1) * tokens),
            pixels=said['pixels'].transpose(0, 1, 3, 4, 2)[:, :, None],
            media_size=row(np.broadcast_to(grid, (system.media, 3))),
        )
        self.batch = jax.tree.map(jnp.asarray, batch)
        words = ('tokens', 'weight', 'span', 'position', 'slot', 'media_span')
        cut = {name: x[:, :-WRITTEN] for name in words if (x := getattr(self.batch, name)) is not None}
        self.prompt, self.model = self.batch._replace(**cut), skeleton.merge(params)
        self.rules = Rules(jnp.zeros(VOCAB, bool), jnp.zeros(VOCAB, bool))
        optimizer = adamw.build(self.train, 1000)
        # The state is donated to each step, and decoding goes on with the weights as they were.
        self.state = init_state(optimizer, jax.tree.map(jnp.copy, self.train), 0)
        update = build_update(skeleton, optimizer, NextToken(), compute_dtype='float32')
        self.update, _ = compile_update(update, self.state, self.frozen, self.batch)

    def step(self) -> float:
        """Takes one step and returns the loss before it."""
        self.state, metrics = self.update(self.state, self.frozen, self.batch)
        return float(metrics['loss'] / metrics['weight'])

    def write(self, tokens: int = WRITTEN) -> np.ndarray:
        """Returns the tokens that it writes to each prompt [B, tokens]."""
        import jax

        from mmjax.decode.generate import sample
        from mmjax.decode.sampling import Decoding

        how = Decoding(max_new_tokens=tokens)
        return np.asarray(sample(self.model, self.prompt, self.rules, jax.random.key(0), how).tokens)


def in_turns(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Returns the median CPU seconds of each call, the calls one after the other in every turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):  # the first one warms up
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def same(name: str, ours: Any, theirs: Any, tolerance: float = 0.0) -> None:
    """Raises where the two differ: they did not do the same work."""
    if not np.allclose(ours, theirs, rtol=tolerance, atol=0):
        raise SystemExit(f'{name} differ: ours {ours}, of transformers {theirs}; the comparison means nothing')


def compare(name: str, turns: int) -> None:
    """Prints the rows of one system."""
    from mmjax.optim import Adamw

    system, adamw = SYSTEMS[name], Adamw(peak_lr=1e-4, schedule='constant')
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(system, adamw)
        theirs.model.save_pretrained(folder)
        ours = Ours(system, adamw, pathlib.Path(folder))
    count = sum(w.size for w in ours.train.values())
    same('trainable parameters', count, sum(w.numel() for w in theirs.learnt))
    total = count + sum(w.size for w in ours.frozen.values())
    same('decoded tokens', ours.write(), theirs.write())
    for label, tokens in (('decoding, 64 tokens with their prompts', WRITTEN), ('decoding, 1 token: the prompts', 1)):
        calls = {'ours': functools.partial(ours.write, tokens), 'theirs': functools.partial(theirs.write, tokens)}
        row(name, label, in_turns(calls, turns))
    same('losses', ours.step(), theirs.step(), 1e-5)
    taken = in_turns({'ours': ours.step, 'theirs': theirs.step}, turns)
    same('losses after all steps', ours.step(), theirs.step(), 1e-3)
    row(name, f'training, {count / 1e6:.1f} of {total / 1e6:.1f} million parameters', taken)


def row(name: str, what: str, taken: dict[str, float]) -> None:
    """Prints one row."""
    ours, theirs = 1e3 * taken['ours'], 1e3 * taken['theirs']
    print(f'| {name} | {what} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.2f} |', flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('systems', nargs='*', default=list(SYSTEMS), metavar='SYSTEM', help=', '.join(SYSTEMS))
    parser.add_argument('--turns', type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before jax and torch count the cores
    import jax
    import torch
    import transformers

    from mmjax import host

    warnings.filterwarnings('ignore')
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    host.keep_memory()  # as `mmjax train` does
    versions = f'jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}'
    print(f'{versions}, load {os.getloadavg()[0]:.1f}')
    print('| system | what | ours, ms | transformers, ms | transformers / ours |\n|---|---|---|---|---|')
    for name in args.systems:
        compare(name, args.turns)


if __name__ == '__main__':
    main()
