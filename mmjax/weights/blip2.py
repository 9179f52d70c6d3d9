# SPDX-License-Identifier: Apache-2.0
"""The layouts of BLIP-2, InstructBLIP and its variant for videos: BLIP's tower, a Q-Former, a language model."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.qformer import Qformer
from mmjax.models.sense import Sense
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.weights import blip, llama, opt, qformer, t5
from mmjax.weights.parts import linear
from mmjax.weights.table import Table

# EVA-CLIP's ViT-g/14 without its last block: what the public class takes where nothing is said.
VIT_G = dict(
    hidden_size=1408, intermediate_size=6144, num_hidden_layers=39, num_attention_heads=16, image_size=224,
    patch_size=14, layer_norm_eps=1e-6,
)  # fmt: skip
# The language models: how the config of each is read, and its names below language_model.
LANGUAGE = {
    'opt': (opt.config, opt.table),
    'llama': (llama.config, llama.table),
    't5': (t5.config, t5.table),
}


def vision(public: Mapping[str, Any]) -> Vit.Config:
    """Returns our config of the tower."""
    return blip.vision({**VIT_G, **public})


def config(public: Mapping[str, Any], *, frames: int = 4, most: int = 128) -> Vlm.Config:
    """Returns our config of a config.json; instructions have at most `most` words, videos `frames` frames."""
    kind, text = public.get('model_type', 'blip-2'), public['text_config']
    if text.get('model_type', 'opt') not in LANGUAGE:
        raise ValueError(f'language model of type {text["model_type"]!r}: known here are {", ".join(LANGUAGE)}')
    if public.get('qformer_config', {}).get('use_qformer_text_input'):
        raise ValueError('use_qformer_text_input: a BLIP-2 that judges pairs is read by blip2.retriever')
    instructed, video = kind.startswith('instructblip'), kind == 'instructblipvideo'
    return Vlm.Config(
        encoder=vision(public.get('vision_config', {})),
        connector=qformer.config(
            public.get('qformer_config', {}),
            queries=public.get('num_query_tokens', 32),
            reads=instructed,
            most=most,
            instructed=instructed,
            per_frame=video,
        ),
        decoder=LANGUAGE[text.get('model_type', 'opt')][0](text),
        frames=frames if video else 1,
    )


def table(c: Vlm.Config, language: str) -> Table:
    """Returns the names of a checkpoint whose language model is one of LANGUAGE."""
    names = qformer.INSTRUCTED if c.connector.instructed else qformer.HUB
    decoder = LANGUAGE[language][1](c.decoder).under('decoder/', 'language_model.')
    return parts_table(c, names, 'language_projection') + decoder


def vicuna_table(c: Vlm.Config) -> Table:
    """Returns the names of an InstructBLIP before Vicuna."""
    return table(c, 'llama')


def t5_table(c: Vlm.Config) -> Table:
    """Returns the names of a BLIP-2 or an InstructBLIP before FLAN-T5."""
    return table(c, 't5')


def asking_table(c: Sense.Config) -> Table:
    """Returns the names of the Q-Former of an InstructBLIP and of its map, for a sense that begins with them."""
    others = (r'(vision_model|language_model)\..*', 'of another part')
    asking = qformer.table(c.connector, qformer.INSTRUCTED).under('connector/', '')
    return Table((*asking.entries, *linear('connector/out', 'language_projection')), (*asking.ignored, others))


def parts_table(c: Vlm.Config, names: qformer.Names, projection: str) -> Table:
    """Returns the names of the tower, the Q-Former, and the map to the language model."""
    return (
        blip.vision_table(c.encoder).under('encoder/', 'vision_model.')
        + qformer.table(c.connector, names).under('connector/', '')
        + Table(tuple(linear('connector/out', projection)))
    )


def retriever(public: Mapping[str, Any], most: int = 32) -> tuple[Vit.Config, Qformer.Config]:
    """Returns our configs of the two parts of a Blip2ForImageTextRetrieval; texts have at most `most` words."""
    asking, asked = public.get('qformer_config', {}), public.get('num_query_tokens', 32)
    heads = qformer.heads(asking, width=public.get('image_text_hidden_size', 256), writes=False)
    connector = qformer.config(asking, queries=asked, reads=True, most=most, heads=heads)
    return vision(public.get('vision_config', {})), connector


def retriever_table(tower: Vit.Config, asking: Qformer.Config) -> Table:
    """Returns the names of a Blip2ForImageTextRetrieval."""
    judged = qformer.table(asking, qformer.RETRIEVAL).under('connector/', '')
    return blip.vision_table(tower).under('encoder/', 'vision_model.') + judged
