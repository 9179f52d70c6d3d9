# SPDX-License-Identifier: Apache-2.0
"""CogVLM: in every block, pictures are read by weights of their own, words by the language model's (Wang et al. 2023).

configs/cogvlm.py:17b | 19b           published sizes: CogVLM (cogvlm-chat-hf) and CogVLM2 (cogvlm2-llama3-chat-19B)
configs/cogvlm.py:17b,data=chat.jsonl trains on a user's own chats
configs/cogvlm.py:debug               tries all parts on a CPU

    <s> [a learned token, 1225 places, a learned token] Question: Where is the cat? Answer: [[123,456,789,987]]</s>

Steps and batches are the paper's (unverified); rates are ours. CogVLM2's training is given the same stages.
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Locate
from mmjax.models.gated import GatedConnector
from mmjax.models.vlm import Vlm
from mmjax.weights import cogvlm

REFERRING = 'data/refcoco/*.jsonl?text=sentence&boxes=bbox&box.unit=pixels'
# Side of the picture, its squares merged, tokens a row, (placeholder, start, end), the language model.
SIZES = {
    '17b': (490, 1, 2048, ('<unk>', '<s>', '</s>'), 'vicuna-7b-v1.5'),
    '19b': (1344, 2, 4096, ('<|reserved_special_token_0|>', '<|begin_of_text|>', '<|end_of_text|>'), 'llama-3-8b'),
}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    side, merge, tokens, words, name = SIZES[a.size]
    form, codec = templates.cogvlm(*words), dialects.cogvlm()
    decoder = vl_parts.with_expert(second=merge == 2)
    model = Vlm.Config(
        encoder=vl_parts.eva2_clip_e(side),
        connector=GatedConnector.Config(hidden=decoder.block.mlp.width, merge=merge, ends=1),
        decoder=decoder,
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer(f'weights/{name}' + '/tokenizer.model' * (merge == 1), form, codec),
        max_tokens=tokens,
        max_media=1,  # a picture fills half of a row and more
        image=form.image,
        text=form.text,
        coordinates=codec,
        overlong='truncate',
    )
    captions = data.part('data/laion/*.tar')
    asked = (data.part(REFERRING, 0.5, task=Locate(chat=True)), data.part('data/coyo/*.tar'))
    chats = data.part('data/cogvlm_sft_311k/*.json?format=chat&images_first=true')
    # The words' weights rest in both stages of pretraining, the tower until the chats.
    expert = ('connector/.*', 'decoder/blocks/expert/.*')
    rate = dict(b2=0.95, weight_decay=0.05)
    align = Stage('align', data.mix(a.data, captions), rows=8192, steps=120_000, accumulate=8, trainable=expert,
                  optimizer=Adamw(peak_lr=1e-4, warmup=12_000, **rate))  # fmt: skip
    ground = Stage('ground', data.mix(a.data, captions, *asked), rows=1024, steps=60_000, trainable=expert,
                   optimizer=Adamw(peak_lr=1e-5, warmup=1_200, **rate))  # fmt: skip
    chat = Stage('chat', data.mix(a.data, chats), rows=640, steps=8_000, optimizer=Adamw(peak_lr=1e-5, warmup=50))
    load = [
        # The expert begins as a copy of the language model.
        Load(f'weights/{name}', paths=('decoder/.*',), table=cogvlm.from_llama, part='decoder'),
        Load('weights/eva2-clip-e', paths=('encoder/.*',), table=cogvlm.vision_table, part='encoder'),
    ]
    fresh = ('connector/.*', *(('decoder/blocks/expert/attn/./bias',) if merge == 2 else ()))
    run = Run(model, layout, [align, ground, chat], mesh=Mesh(1, -1, 1), remat='block', load=load, fresh=fresh)
    return shrink(run, chat=True) if a.debug else run
