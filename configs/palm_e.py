# SPDX-License-Identifier: Apache-2.0
"""PaLM-E: pictures and states of a robot stand in 'multi-modal sentences' before a PaLM (Driess et al. 2023).

configs/palm_e.py:12b | 84b | 562b  published sizes
configs/palm_e.py:debug             tries all parts on a CPU

Neither code nor weights are public. Sizes are (unverified); where the paper gives no number of the training (batch,
steps, rate, the states' width), the one here is ours.
"""

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Ask, Caption
from mmjax.models import connector
from mmjax.models.state import StateVector
from mmjax.models.vlm import Vlm
from mmjax.objectives.next_token import NextToken

LANGUAGE_MODEL = {'12b': '8b', '84b': '62b', '562b': '540b'}
TOWER = {'12b': parts.vit_4b, '84b': parts.vit_22b, '562b': parts.vit_22b}
TP = {'12b': 1, '84b': 4, '562b': 8}  # devices that share one copy of each layer


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '12b', '84b', '562b')
    form, language_model = templates.plain(), LANGUAGE_MODEL[a.size]
    model = Vlm.Config(
        encoder=TOWER[a.size](),
        connector=connector.Linear.Config(),
        state=StateVector.Config(size=16),
        decoder=parts.palm(language_model),
    )
    model.decoder.vocab_multiple = 128 * TP[a.size]
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/palm/tokenizer.model', form),
        max_tokens=2048,
        max_media=8,
        max_states=8,
        image=form.image,
        text=form.text,
    )
    layout.tokenizer.special += (layout.state,)
    # Of the full mixture 8.9 % is embodied (unverified): plans and states, as JSON lines of pieces.
    mix = data.mix(
        a.data,
        data.part('data/robots/*.jsonl', 0.089),
        data.part('data/webli/*.tar', 0.6, task=Caption()),
        data.part('data/vqa/*.jsonl?text=answer&prompt=question', 0.311, task=Ask()),
    )
    # All is trained; the variant with a frozen language model has trainable=('encoder/.*', 'connector/.*', 'state/.*').
    optimizer = Adamw(peak_lr=5e-5, warmup=1000, weight_decay=0.01, b2=0.98)
    stage = Stage('train', mix, rows=512, steps=50_000, optimizer=optimizer, objective=NextToken(z_loss=1e-4))
    run = Run(
        model,
        layout,
        [stage],
        mesh=Mesh(1, -1, TP[a.size]),
        remat='block',
        load=[Load('runs/tower', ('encoder/.*',)), Load(f'runs/palm_{language_model}', ('decoder/.*',))],
        fresh=('connector/.*', 'state/.*'),
    )
    return shrink(run) if a.debug else run
