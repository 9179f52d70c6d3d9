# SPDX-License-Identifier: Apache-2.0
"""Refuses layouts that do not agree with the model or the tokenizer, before a document is laid out."""

from typing import Any

from mmjax.batch import MediaSpec
from mmjax.data.tokenizer import Tokenizer


def check(c: Any, spec: MediaSpec, tokenizer: Tokenizer) -> None:
    """Refuses a layout that cannot work with this model or this tokenizer."""
    stands = spec.tokens and not spec.apart
    needed = [t for t in c.special_tokens() if stands or t not in c.image.special_tokens()]
    if missing := [t for t in needed if not tokenizer.knows(t)]:
        raise ValueError(f'layout writes special tokens that are not there: {tokenizer.missing(missing)}')
    if not spec.in_sequence and (c.image.two_way or c.image.one_position or c.image.row_end):
        raise ValueError(
            'layout.image sets two_way, one_position or row_end, but this model looks at pictures through '
            'cross-attention: they have no places in the sequence; leave them unset'
        )
    if not spec.in_sequence and spec.varying and c.sees == 'all':
        raise ValueError(
            "layout.sees='all' needs pictures of one size: those of this model vary, and an interval over several "
            "would hold their padding; use 'last' or 'next'"
        )
    _check_encoder(c, spec)
    if spec.marks and c.fit != 'squash':
        raise ValueError(f"layout.fit is {c.fit!r}: marks follow only pictures that are squashed, set it to 'squash'")
    if c.max_states and not spec.state_width:
        raise ValueError(f'layout.max_states is {c.max_states}, but the model reads no states; set Vlm.Config.state')
    _check_regions(c, spec)
    _check_senses(c, spec)
    if c.max_states and not spec.in_sequence:
        raise ValueError(
            f'layout.max_states is {c.max_states}, but states stand among the text, where a model that looks at '
            'media through cross-attention puts none; use Splice'
        )
    if spec.answers and (c.max_media != 1 or not spec.apart):
        raise ValueError(f'layout.max_media is {c.max_media}: answers are chosen row by row, set it to 1')
    if spec.tokens and c.max_media:
        _check_pictures(c, spec, tokenizer)


def _check_pictures(c: Any, spec: MediaSpec, tokenizer: Tokenizer) -> None:
    if spec.axes > 1 and (c.image.row_end or c.image.one_position or c.tiles):
        raise ValueError(
            'layout.image.row_end, one_position and layout.tiles speak of positions in a line, but those of this '
            'model have three axes: leave them unset'
        )
    if c.tiles and (spec.frames < 1 + c.tiles.most or not spec.newline or c.fit != 'squash' or spec.varying):
        raise ValueError(
            f'layout.tiles makes up to {1 + c.tiles.most} frames of a picture and ends rows with a learned token: '
            f'set Vlm.Config.frames to that (now {spec.frames}) and newline to True (now {spec.newline}), '
            f"layout.fit to 'squash' (now {c.fit!r}), and use a tower of fixed size"
        )
    rows, columns = spec.grid(spec.frames, spec.height // spec.patch, spec.width // spec.patch)
    ends = len(tokenizer.encode(c.image.row_end)) * rows
    around = len(tokenizer.encode(c.image.before + c.image.after))
    most = min(rows * columns, spec.tokens)
    longest = 0 if spec.apart else (most + ends if spec.in_sequence else 1) + around
    if c.tiles:
        longest = c.tiles.longest(columns) + around
    if longest > c.max_tokens:
        raise ValueError(
            f'a picture takes up to {longest} tokens ({rows} x {columns}, {ends} at the ends of rows, {around} '
            f'around), a row holds {c.max_tokens}; raise layout.max_tokens or give the model a smaller connector'
        )


def _check_encoder(c: Any, spec: MediaSpec) -> None:
    if spec.encodes != bool(c.text.output_start):
        raise ValueError(
            f'layout.text.output_start is {c.text.output_start!r}: it opens what a decoder writes, for a model '
            f'with an encoder beside it, and this one has {"one" if spec.encodes else "none"}; take the format of '
            f'the model, e.g. templates.{"t5" if spec.encodes else "plain"}()'
        )
    if spec.encodes and c.overlong not in ('cut', 'drop'):
        raise ValueError(
            f'layout.overlong is {c.overlong!r}, but an answer cannot be parted from what the encoder reads: set '
            "it to 'cut' or 'drop'"
        )
    if spec.encodes and (c.two_way_prompt or c.image.two_way or c.image.one_position):
        raise ValueError(
            'layout.two_way_prompt, image.two_way or image.one_position is set, but an encoder sees its whole '
            'input both ways, each token at a position of its own: leave them unset'
        )


def _check_regions(c: Any, spec: MediaSpec) -> None:
    if bool(c.max_regions) != bool(spec.points):
        raise ValueError(
            f'layout.max_regions is {c.max_regions}, and the model reads {spec.points} points of a region: set '
            'Vlm.Config.region_sampler and layout.max_regions, or neither'
        )


def _check_senses(c: Any, spec: MediaSpec) -> None:
    if bool(c.max_senses) != bool(spec.senses) or c.senses.keys() - spec.senses.keys():
        raise ValueError(
            f'layout.max_senses is {c.max_senses}, layout.senses names {", ".join(c.senses) or "none"}, and the model '
            f'reads {", ".join(spec.senses) or "no further kinds of media"}: set max_senses where Vlm.Config.senses '
            'is set, and formats for kinds that are among them'
        )
    for kind, sense in spec.senses.items():
        if sense.beside not in (0, spec.beside):
            raise ValueError(
                f'the connector of {kind!r} reads {sense.beside} words beside each medium, that of pictures '
                f'{spec.beside}; all read the same words: make their numbers equal, or one of them 0'
            )
        if sense.tokens > c.max_tokens:
            raise ValueError(
                f'a medium of the kind {kind!r} takes {sense.tokens} tokens, a row holds {c.max_tokens}; raise '
                'layout.max_tokens or give the kind a smaller connector'
            )
