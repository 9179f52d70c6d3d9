# SPDX-License-Identifier: Apache-2.0
"""TextBind: conversations in which pictures stand anywhere, read by BLIP-2's queries before Llama 2 (Li et al. 2023).

configs/textbind.py:7b                  published size
configs/textbind.py:7b,data=chat.jsonl  trains on a user's own conversations (pieces with roles)
configs/textbind.py:debug               tries all parts on a CPU

    <s>[INST] look [picture] at this [picture] [/INST] Two cats. </s><s>[INST] ...

Where the assistant draws, the published model writes a caption between two signs, which another model paints; captions
branch off the conversation, so what follows does not see them. Here such captions stand in the conversation as words
<start>...<end>, as the data writes them, and nothing is painted. Numbers are those of the public scripts.
"""

import dataclasses

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.tasks import Caption, Chat
from mmjax.models.vlm import Vlm
from mmjax.weights import llama, textbind

PAIRS = 'data/cc3m_cc12m_sbu/*.tar'
# Conversations of the second stage, and how many thousands there are.
CHATS = {
    'textbind': 21.629, 'llava': 157.712, 'multi_instruct': 105.745, 'platypus': 24.926, 'shikra': 7.081,
    'minigpt4': 3.439,
}  # fmt: skip
ASK = (
    'Describe the picture in a few words.',
    'Write a short caption for this picture.',
    'What does this picture show? Be brief.',
    'Sum up in a sentence what is to be seen.',
)


def get_config(arg: str = '') -> Run:
    """Returns the run."""
    a = parse(arg, '7b')
    form = templates.llama2()
    # Behind the words of Llama 2 stand the picture's place and the signs around captions.
    text = {**parts.LLAMA['7b'], 'vocab_size': 32_003, 'rms_norm_eps': 1e-5}
    model = Vlm.Config(encoder=parts.eva_g(), connector=parts.asking(), decoder=llama.config(text))
    tokenizer = parts.tokenizer('weights/llama-2-7b-chat/tokenizer.model', form)
    tokenizer.special += ('<start>', '<end>')
    layout = Layout.Config(
        tokenizer=tokenizer,
        max_tokens=768,
        max_media=8,
        image=form.image,
        text=form.text,
        overlong='truncate',
    )
    rate = dict(schedule='cosine', b2=0.95, weight_decay=1e-3)
    # The checkpoint of the second pass is taken.
    align = Stage(
        'align', data.mix(a.data, data.part(PAIRS, task=Caption(questions=ASK, chat=True))), rows=256, steps=78_128,
        trainable=('connector/.*',), optimizer=Adamw(peak_lr=1e-4, warmup=2000, **rate),
    )  # fmt: skip
    chats = data.mix(a.data, *(data.part(f'data/{name}/*.jsonl', count) for name, count in CHATS.items()))
    chat = Stage(
        'chat', chats, rows=64, steps=int(3000 * sum(CHATS.values()) / 64), trainable=('connector/.*', 'decoder/.*'),
        optimizer=Adamw(peak_lr=1e-5, warmup=450, **rate),
    )  # fmt: skip
    loads = [
        parts.eva_g_weights(),
        Load('weights/blip2-flan-t5-xxl', (r'connector/(?!out/).*',), table=textbind.asking_table, part='connector'),
        Load('weights/llama-2-7b-chat', ('decoder/.*',), table=parts.vicuna_table, part='decoder'),
    ]
    run = Run(model, layout, [align, chat], mesh=Mesh(1, -1, 1), remat='block', load=loads, fresh=('connector/out/.*',))
    return small(shrink(run, chat=True)) if a.debug else run


def small(run: Run) -> Run:
    """Conversations of one turn, and of several with a picture each: how many digits there are, and names for them."""
    weights = {'count': 1.0, 'few_shot': 0.25}
    parts = [Part(source=Digits.Config(task=task, shots=2), weight=w, task=Chat()) for task, w in weights.items()]
    run.stages = [dataclasses.replace(stage, data=Mix.Config(parts=parts)) for stage in run.stages]
    return run
