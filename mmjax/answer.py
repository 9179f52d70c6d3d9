# SPDX-License-Identifier: Apache-2.0
"""Answers to documents: laid-out prompts go to the devices in batches of one shape, texts come back."""

import concurrent.futures
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.data.images import pixel_hash
from mmjax.data.laid import Laid, Shape
from mmjax.data.layout import Layout
from mmjax.data.render import Row, render, stack
from mmjax.data.tokenizer import SPECIAL, Tokenizer
from mmjax.decode import beam, generate
from mmjax.decode.automaton import until
from mmjax.decode.boxes import one_box
from mmjax.decode.generate import Rules, Written
from mmjax.decode.sampling import Decoding
from mmjax.document import BadDocument, Document
from mmjax.feed import rows_of_host, to_global

# Prompts are padded to a multiple: evaluations whose longest prompts differ a little share one compiled program.
STEP = 32


class Answer(NamedTuple):
    """What the model wrote."""

    text: str  # without what ended it
    tokens: list[int]
    log_prob: float  # of the tokens and the one that ended them
    ended: bool  # False: cut off by max_new_tokens
    problem: str = ''  # why there is no answer: a picture that cannot be read
    images: tuple[str, ...] = ()  # hashes of the pixels that the model saw


class Fed(NamedTuple):
    """A batch on the devices, and what the host knows of its rows."""

    batch: Batch
    problems: list[str]  # why a row is blank, '' if it is not
    images: list[tuple[str, ...]]  # hashes of each row's pixels


def lay(documents: Sequence[Document], layout: Layout, dropped: Counter[str]) -> tuple[list[Document], list[Laid]]:
    """Returns the documents that can be laid out, and the first part of each; others are counted in `dropped`."""
    kept, laid = [], []
    for document in documents:
        try:
            laid.append(layout(document)[0])
            kept.append(document)
        except BadDocument as error:
            dropped[error.reason] += 1
    return kept, laid


def room(prompts: Sequence[Laid]) -> Shape:
    """Returns the shape of rows that hold any of the prompts."""
    most = np.max([p.need for p in prompts], axis=0, initial=0).tolist()
    return Shape(-(-max(most[0], 1) // STEP) * STEP, *most[1:])


def require_room(prompts: Sequence[Laid], shape: Shape) -> None:
    """Refuses prompts that do not fit the rows for which a program is compiled."""
    for prompt in prompts:
        if over := [name for name, need, most in zip(Shape._fields, prompt.need, shape, strict=True) if need > most]:
            raise ValueError(
                f'{prompt.key!r} needs {prompt.need}, the program is for rows of {shape}: too many {", ".join(over)}; '
                f'ask with a shape that holds all prompts (room), at most {", ".join(f"layout.max_{n}" for n in over)}'
            )


def rows_for(count: int, most: int = 64) -> int:
    """Returns how many rows a batch has: as many as there are documents, at most `most`, a multiple of the devices."""
    shards = sharding.axis_size('data') * sharding.axis_size('fsdp')
    return -(-max(1, min(count, most)) // shards) * shards


class Answerer:
    """Answers prompts of one shape; the program is compiled when the first batch comes."""

    def __init__(
        self, model: Any, layout: Layout, shape: Shape, rows: int, how: Decoding, *, boxes: bool = False, seed: int = 0
    ):
        """`boxes`: an answer is one valid box of the layout's dialect and nothing else."""
        how.check()
        ends, strings = endings(layout)
        self.stop = (*how.stop, *strings)
        self.model, self.layout, self.shape, self.rows, self.how = model, layout, shape, rows, how
        only = ()
        if boxes:
            only, longest = box_tables(layout)
            self.how = dataclasses.replace(how, max_new_tokens=max(how.max_new_tokens, longest + 1))
        stops = until(self.stop, layout.tokenizer.spelling) if self.stop else None
        self.rules = Rules(*_banned(layout, ends), only, stops)
        self.key = jax.random.key(seed)

    def __call__(self, prompts: Sequence[Laid]) -> list[Answer]:
        """Returns one answer for each prompt, in order."""
        require_room(prompts, self.shape)
        self._check(prompts)
        answers = []
        rows = [[prompt] for prompt in prompts]
        for number, fed in enumerate(feed(rows, self.layout, self.shape, self.rows)):
            if self.how.beams > 1:
                written = beam.search(self.model, fed.batch, self.rules, self.how)
            else:
                key = jax.random.fold_in(self.key, number)
                written = generate.sample(self.model, fed.batch, self.rules, key, self.how)
            answers += self._read(gather(written), fed)
        return answers[: len(prompts)]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the answers beside the model."""
        return {'decoding': dataclasses.asdict(self.how), 'stop': list(self.stop)}

    def _check(self, prompts: Sequence[Laid]) -> None:
        """Refuses answers that reach beyond a table of learned positions, where the last one would silently repeat."""
        decoder = getattr(self.model, 'decoder', None)
        decoder = getattr(decoder, 'decoder', decoder)  # of an encoder-decoder, the part that writes
        position = getattr(decoder, 'position', None)
        if not hasattr(position, 'table'):
            return
        places = position.table.shape[0] - position.offset
        longest = max((int(p.position[-1:].max(initial=0)) + 1 for p in prompts), default=0)
        if longest + self.how.max_new_tokens > places:
            raise ValueError(
                f'a prompt of {longest} tokens and an answer of up to {self.how.max_new_tokens}, but the model has '
                f'learned {places} positions; lower max_new_tokens to {max(places - longest, 0)} or shorten the prompt'
            )

    def _read(self, written: Written, fed: Fed) -> list[Answer]:
        answers = []
        for row, (problem, images) in enumerate(zip(fed.problems, fed.images, strict=True)):
            tokens = written.tokens[row, : int(written.length[row])].tolist()
            text = self.layout.tokenizer.decode(tokens)
            text = text[: min((found for s in self.stop if (found := text.find(s)) >= 0), default=len(text))]
            log_prob, ended = float(written.log_prob[row]), bool(written.ended[row])
            answers.append(Answer('' if problem else text, tokens, log_prob, ended, problem, images))
        return answers


def endings(layout: Layout) -> tuple[set[int], list[str]]:
    """Returns (tokens, strings) that the layout writes behind answers."""
    formats, tokenizer, tokens, strings = layout.config.text, layout.tokenizer, set(), []
    for text in (formats.assistant.after, formats.chunk_end, formats.end):
        special = SPECIAL.search(text)
        if special and special[0] in tokenizer.special:
            tokens.add(tokenizer.id(special[0]))
        elif text:
            strings.append(text)
    return tokens, strings


def box_tables(layout: Layout) -> tuple[tuple, int]:
    """Returns the tables of one box in the layout's dialect and the longest answer's tokens."""
    if layout.config.coordinates is None:
        raise ValueError('this run writes no boxes (layout.coordinates is None); boxes cannot be asked of it')
    size = (layout.spec.width, layout.spec.height)
    return one_box(layout.config.coordinates, layout.tokenizer, size, layout.config.text.assistant.lead)


def _banned(layout: Layout, ends: set[int]) -> tuple[jax.Array, jax.Array]:
    """Returns masks over the vocabulary of (tokens that end an answer, tokens that only prompts hold)."""
    c, tokenizer, index = layout.config, layout.tokenizer, np.arange(layout.tokenizer.size)
    own = [c.text.start, c.text.input_end, c.text.output_start, c.state]
    for form in (c.image, *c.senses.values()):
        own += [form.before, form.after, form.row_end, form.placeholder]
    names = {name for text in own for name in SPECIAL.findall(text)}
    banned = {tokenizer.special[name] for name in names if name in tokenizer.special} - ends
    return jnp.asarray(np.isin(index, list(ends))), jnp.asarray(np.isin(index, list(banned)))


def feed(documents: Sequence[Sequence[Laid]], layout: Layout, shape: Shape, rows: int) -> Iterator[Fed]:
    """Yields batches of the given rows of documents; the last batch is filled up with empty rows."""
    mesh = jax.sharding.get_mesh() if sharding.current() else None
    mine = rows_of_host(rows, mesh) if mesh else range(rows)
    draw = lambda some: render(some, shape, layout.spec, layout.decode, layout.pad)
    with concurrent.futures.ThreadPoolExecutor(2, 'decode') as pool:
        for start in range(0, len(documents), rows):
            some = [*documents[start : start + rows]]
            some += [[]] * (rows - len(some))
            rendered: list[Row] = list(pool.map(draw, some[mine.start : mine.stop]))
            batch = stack(rendered)
            blank = gather(np.array([bool(row.blanked) for row in rendered]))
            reasons = {mine.start + i: str(row.blanked[0]) for i, row in enumerate(rendered) if row.blanked}
            yield Fed(
                to_global(batch, mesh) if mesh else jax.tree.map(jnp.asarray, batch),
                [reasons.get(i, 'unreadable' if bad else '') for i, bad in enumerate(blank)],
                _hashes(batch),
            )


def _hashes(batch: Batch) -> list[tuple[str, ...]]:
    """Returns the hashes of the pictures of all processes' rows, and of media of further kinds behind them."""
    decks = [] if batch.shown is None else [(batch.shown, batch.media_size)]
    decks += [(sense.shown, sense.size) for sense in (batch.senses or {}).values()]
    if not decks:
        return [()] * len(gather(np.zeros(len(batch.tokens), np.uint8)))
    there = np.concatenate([size[..., 0] > 0 for _, size in decks], axis=1)
    shown = [[one for deck, _ in decks for one in deck[row]] for row in range(len(there))]
    digests = np.zeros((*there.shape, 8), np.uint8)
    for row, place in zip(*np.nonzero(there), strict=True):
        digests[row, place] = np.frombuffer(bytes.fromhex(pixel_hash(shown[row][place])), np.uint8)
    rows = zip(gather(digests), gather(there), strict=True)
    return [tuple(bytes(digest).hex() for digest, is_there in zip(*row, strict=True) if is_there) for row in rows]


def gather(tree: Any) -> Any:
    """Returns arrays as numpy on every process: those over the devices whole, a process's own one after the other."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def as_read(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Returns tokens as text; a long run of one special token, as the places of a picture, is written <image>x64."""
    text = []
    for special, group in itertools.groupby(tokens, lambda t: t if t in tokenizer.special_ids else -1):
        run = list(group)
        text.append(
            tokenizer.decode(run[:1]) + f'x{len(run)}' if special >= 0 and len(run) > 3 else tokenizer.decode(run)
        )
    return ''.join(text)
