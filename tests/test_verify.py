# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from mmjax import verify
from mmjax.config import Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.templates import ImageFormat
from mmjax.data.tokenizer import Bytes
from mmjax.models.connector import Mlp as MlpConnector
from mmjax.models.decoder import Decoder
from mmjax.models.fusion import CrossAttention, Splice
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.trunk import Trunk
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch, GatedBlock
from mmjax.nn.mlp import Mlp

BLOCK = Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=16))
GATED = GatedBlock.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=16))


def run(fusion, image=None, **fields):
    model = Vlm.Config(
        encoder=Vit.Config(size=(32, 32), patch=16, width=8, depth=1, block=BLOCK),
        connector=MlpConnector.Config(),
        fusion=fusion,
        decoder=Decoder.Config(vocab=259, width=8, depth=2, block=BLOCK),
    )
    f = templates.flamingo()
    layout = Layout.Config(
        tokenizer=Bytes.Config(special=f.special_tokens()),
        max_tokens=128,
        image=image or f.image,
        text=f.text,
        **fields,
    )
    stage = Stage(name='all', data=Mix.Config(parts=[Part(source=Digits.Config())]), rows=2, steps=1)
    return Run(model=model, layout=layout, stages=[stage])


def encoding():
    made = run(Splice.Config(), ImageFormat(), overlong='drop')
    made.layout.text = dataclasses.replace(made.layout.text, chunk_end='', output_start='<|endofchunk|>')
    decoder = dataclasses.replace(made.model.decoder, depth=1)
    encoder = Trunk.Config(depth=1, block=BLOCK)
    made.model.decoder = Seq2seq.Config(
        encoder=encoder, decoder=decoder, cross=CrossBranch.Config(attn=Attention.Config(heads=2))
    )
    return made


@pytest.mark.parametrize(
    'made',
    [
        run(Splice.Config(), ImageFormat(two_way=True)),
        run(CrossAttention.Config(block=GATED, every=2), sees='all'),
        encoding(),
    ],
    ids=['splice', 'cross-attention', 'encoder-decoder'],
)
def test_packing_changes_nothing(made):
    verdict = verify.verify(made, most=3)
    assert verdict.ok, str(verdict)
    assert len(verdict.keys) == 3 and verdict.media == 3
    assert 'verdict     packing changes nothing' in str(verdict)


def test_a_leak_is_found(monkeypatch):
    def leaky(documents, layout, batch_of=verify.batch_of):
        batch = batch_of(documents, layout)
        batch.span[..., 0] = 0  # every document sees those before it
        return batch

    monkeypatch.setattr(verify, 'batch_of', leaky)
    monkeypatch.setattr(verify, 'check', lambda *_: None)
    verdict = verify.verify(run(Splice.Config()), most=2)
    assert not verdict.ok and verdict.seen == [verdict.keys[0]] and verdict.loss > verify.LOSS_TOLERANCE
    assert 'SEEN BY OTHERS' in str(verdict) and 'do not train on this' in str(verdict)


def test_rows_of_one_document_cannot_be_compared():
    made = run(Splice.Config(), max_media=1)
    with pytest.raises(ValueError, match='no two fit a row'):
        verify.verify(dataclasses.replace(made))
