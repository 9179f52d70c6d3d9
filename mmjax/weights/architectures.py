# SPDX-License-Identifier: Apache-2.0
"""Which layout a config.json names: its `architectures` entry leads to our config and to the table of its tensors."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from mmjax.data import templates
from mmjax.models.vlm import Vlm
from mmjax.weights import (
    bart,
    bert,
    blip,
    blip2,
    clip,
    cogvlm,
    cohere,
    florence2,
    fuyu,
    gemma,
    gemma3,
    gpt2,
    idefics,
    kosmos2,
    llama,
    llava,
    opt,
    qwen,
    t5,
    vit,
)
from mmjax.weights.table import Table, WeightsError

Public = Mapping[str, Any]


def _nothing_around() -> templates.Format:
    return templates.Format(image=templates.ImageFormat(placeholder=''))


class Architecture(NamedTuple):
    """One public class: how its config.json, its tensors and its prompts are read."""

    model_type: str  # which its config.json must name too
    config: Callable[[Public], Any]
    table: Callable[[Any, Public, Collection[str] | None], Table]  # names None: those that are written
    form: Callable[[Public], templates.Format] = lambda public: _nothing_around()
    fit: str = 'squash'


def read(public: Public, file: Any) -> Architecture:
    """Returns the architecture of a config.json; refuses one that is not known here, or that contradicts itself."""
    names = public.get('architectures') or []
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise WeightsError(
            f'{file}: architectures is {names}; known here are {", ".join(sorted(ARCHITECTURES))}. Weights of one part '
            'of a model (a tower, a decoder of another class) are read by a Load with its table, in run.load'
        )
    found = ARCHITECTURES[names[0]]
    problems = contradictions(public)
    if public.get('model_type', found.model_type) != found.model_type:
        problems.insert(0, f'model_type is {public["model_type"]!r}, that of {names[0]} is {found.model_type!r}')
    if problems:
        raise WeightsError(f'{file} contradicts itself: {"; ".join(problems)}. Take the file that was published')
    return found


def contradictions(public: Public, where: str = '') -> list[str]:
    """Returns which numbers of a config.json, and of the configs inside of it, cannot hold together."""
    found = []
    get = lambda *names: next((public[name] for name in names if isinstance(public.get(name), int)), None)
    width, heads = get('hidden_size', 'n_embd', 'embed_dim'), get('num_attention_heads', 'n_head', 'attention_heads')
    kv_heads, side, patch = get('num_key_value_heads'), get('image_size'), get('patch_size')
    if width and heads and width % heads and not public.get('head_dim'):
        found.append(f'{where}hidden_size {width} is no multiple of num_attention_heads {heads}')
    if heads and kv_heads and heads % kv_heads:
        found.append(f'{where}num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}')
    if side and patch and side % patch:
        found.append(f'{where}image_size {side} is no multiple of patch_size {patch}')
    inner = {name: public[name] for name in public if name.endswith('_config') and isinstance(public[name], Mapping)}
    own, text = public.get('vocab_size'), inner.get('text_config', {}).get('vocab_size')
    if own and text and own != text:
        found.append(f'{where}vocab_size {own} is not that of text_config, {text}')
    image = get('image_token_index', 'image_token_id')
    if image is not None and text and image >= text:
        found.append(f'{where}image_token_index {image} is not below text_config.vocab_size {text}')
    return found + [line for name, part in inner.items() for line in contradictions(part, f'{where}{name}.')]


def form_of_idefics() -> templates.Format:
    """Returns how the open Flamingo of the Hub writes a picture."""
    around = '<fake_token_around_image>'
    image = templates.ImageFormat(before=around, after=around)
    return templates.Format(image=image, text=templates.TextFormat(start='<s>', end='</s>'))


def _words(
    model_type: str,
    config: Callable[[Public], Any],
    table: Callable[[Any], Table],
    form: Callable[[], templates.Format] = _nothing_around,
) -> Architecture:
    """A language model: a Vlm that sees no pictures."""
    return Architecture(
        model_type,
        lambda public: Vlm.Config(decoder=config(public)),
        lambda c, public, names: table(c.decoder).under('decoder/', ''),
        lambda public: form(),
    )


def _plain(
    model_type: str,
    config: Callable[[Public], Any],
    table: Callable[[Any], Table],
    form: Callable[[], templates.Format] = _nothing_around,
    fit: str = 'squash',
) -> Architecture:
    """An architecture whose names follow from our config."""
    return Architecture(model_type, config, lambda c, public, names: table(c), lambda public: form(), fit)


def _llava(c: Any, public: Public, names: Collection[str] | None) -> Table:
    return llava.table(c, 'hub' if names is None else llava.layout_of(names))


def _gemma3(c: Any, public: Public, names: Collection[str] | None) -> Table:
    return gemma3.table(c, 'hub' if names is None else llava.layout_of(names))


def _idefics(c: Any, public: Public, names: Collection[str] | None) -> Table:
    return idefics.table(c, public.get('additional_vocab_size', 0))


def _blip2(model_type: str) -> Architecture:
    language = lambda public: public['text_config'].get('model_type', 'opt')
    forms = {
        'opt': lambda: templates.blip2('</s>', '\n'),
        'llama': lambda: templates.blip2('<s>', '</s>'),
        't5': templates.t5,
    }
    table = lambda c, public, names: blip2.table(c, language(public))
    return Architecture(model_type, blip2.config, table, lambda public: _with_image(forms[language(public)]()))


def _florence(c: Any, public: Public, names: Collection[str] | None) -> Table:
    return florence2.table(c, florence2.HUB if names is None else florence2.layout_of(names))


def _clip() -> templates.Format:
    return templates.Format(text=templates.TextFormat(start='<|startoftext|>', end='<|endoftext|>'))


def _with_image(form: templates.Format) -> templates.Format:
    return dataclasses.replace(form, image=dataclasses.replace(form.image, placeholder='<image>'))


ARCHITECTURES = {
    'LlavaForConditionalGeneration': Architecture(
        'llava', llava.config, _llava, lambda public: templates.vicuna(), 'pad'
    ),
    'BlipForConditionalGeneration': _plain('blip', blip.captioner, blip.captioner_table, templates.blip),
    'BlipForImageTextRetrieval': _plain('blip', blip.retriever, blip.retriever_table),
    'BlipForQuestionAnswering': _plain('blip', blip.answerer, blip.answerer_table, templates.blip),
    'Blip2ForConditionalGeneration': _blip2('blip-2'),
    'InstructBlipForConditionalGeneration': _blip2('instructblip'),
    'InstructBlipVideoForConditionalGeneration': _blip2('instructblipvideo'),
    'CogVLMForCausalLM': _plain('cogvlm', cogvlm.config, cogvlm.table, templates.cogvlm),
    'Florence2ForConditionalGeneration': Architecture(
        'florence2', florence2.config, _florence, lambda public: templates.bart()
    ),
    'Gemma3ForConditionalGeneration': Architecture('gemma3', gemma3.config, _gemma3, lambda public: templates.gemma3()),
    'FuyuForCausalLM': _plain('fuyu', fuyu.config, fuyu.table, templates.fuyu),
    'IdeficsForVisionText2Text': Architecture('idefics', idefics.config, _idefics, lambda public: form_of_idefics()),
    'Kosmos2ForConditionalGeneration': _plain('kosmos-2', kosmos2.config, kosmos2.table, templates.kosmos),
    'CLIPModel': _plain('clip', clip.clip, clip.clip_table, _clip, 'crop'),
    'SiglipModel': _plain('siglip', clip.siglip, clip.siglip_table),
    'ViTMAEForPreTraining': _plain('vit_mae', vit.mae, vit.mae_table),
    'CohereForCausalLM': _words('cohere', cohere.config, cohere.table),
    'GPT2LMHeadModel': _words('gpt2', gpt2.config, gpt2.table),
    'GemmaForCausalLM': _words('gemma', gemma.gemma, gemma.table),
    'Gemma2ForCausalLM': _words('gemma2', gemma.gemma2, gemma.table),
    'Gemma3ForCausalLM': _words('gemma3_text', gemma.gemma3, gemma.table),
    'LlamaForCausalLM': _words('llama', llama.config, llama.table),
    'OPTForCausalLM': _words('opt', opt.config, opt.table),
    'PersimmonForCausalLM': _words('persimmon', fuyu.decoder, fuyu.decoder_table),
    'Qwen2ForCausalLM': _words('qwen2', qwen.qwen2, qwen.table),
    'Qwen3ForCausalLM': _words('qwen3', qwen.qwen3, qwen.table),
    'BartForConditionalGeneration': _words('bart', bart.config, bart.table, templates.bart),
    'BertForMaskedLM': _words('bert', bert.masked, bert.masked_table),
    'T5ForConditionalGeneration': _words('t5', t5.config, t5.table, templates.t5),
}
