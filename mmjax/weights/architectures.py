# SPDX-License-Identifier: Apache-2.0
"""Which layout a config.json names: its `architectures` entry leads to our config and to the table of its tensors."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from mmjax.data import dialects, templates
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
    internvl,
    kosmos2,
    kosmos25,
    llama,
    llava,
    llava_next,
    opt,
    paligemma,
    qwen,
    qwen_native,
    qwen_vl,
    smolvlm,
    t5,
    vit,
)
from mmjax.weights.table import Table, WeightsError

Public = Mapping[str, Any]
Names = Collection[str] | None  # of the tensors that there are; None: those that are written


class Architecture(NamedTuple):
    """One public class: how its config.json, its tensors and its prompts are read."""

    model_type: str  # which its config.json must name too
    config: Callable[[Public], Any]
    table: Callable[[Any, Public, Names], Table]
    layout: Callable[[Public], dict[str, Any]]  # fields of Layout.Config
    beside: str | None = None  # folder of the tokenizer of the words beside pictures, in the public one


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
    # Classes that came with their checkpoint may write nothing.
    if (public.get('model_type') or found.model_type) != found.model_type:
        problems.insert(0, f'model_type is {public["model_type"]!r}, that of {names[0]} is {found.model_type!r}')
    if problems:
        raise WeightsError(f'{file} contradicts itself: {"; ".join(problems)}. Take the file that was published')
    return found


def contradictions(public: Public, where: str = '') -> list[str]:
    """Returns which numbers of a config.json, and of the configs inside of it, cannot hold together."""
    found = []
    get = lambda *names: next((public[name] for name in names if isinstance(public.get(name), int)), None)
    width, heads = get('hidden_size', 'n_embd', 'embed_dim'), get('num_attention_heads', 'n_head', 'attention_heads')
    kv_heads = get('num_key_value_heads')
    if width and heads and width % heads and not public.get('head_dim'):
        found.append(f'{where}hidden_size {width} is no multiple of num_attention_heads {heads}')
    if heads and kv_heads and heads % kv_heads:
        found.append(f'{where}num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}')
    inner = {name: public[name] for name in public if name.endswith('_config') and isinstance(public[name], Mapping)}
    found += [
        f'{where}{name} is {value!r}, and no object'
        for name, value in public.items()
        if name in ('text_config', 'vision_config', 'qformer_config') and not isinstance(value, Mapping | None)
    ]
    own, text = public.get('vocab_size'), inner.get('text_config', {}).get('vocab_size')
    if own and text and own != text:
        found.append(f'{where}vocab_size {own} is not that of text_config, {text}')
    image = get('image_token_index', 'image_token_id')
    if image is not None and text and image >= text:
        found.append(f'{where}image_token_index {image} is not below text_config.vocab_size {text}')
    return found + [line for name, part in inner.items() for line in contradictions(part, f'{where}{name}.')]


def _written(form: Callable[[], templates.Format], dialect: Callable[[], Any] | None = None, **more: Any) -> Any:
    """Returns a function of a config.json that gives a layout's fields."""

    def fields(public: Public) -> dict[str, Any]:
        found = form()
        return dict(image=found.image, text=found.text, coordinates=dialect() if dialect else None, **more)

    return fields


def _nothing_around() -> templates.Format:
    return templates.Format(image=templates.ImageFormat(placeholder=''))


def _between(start: str, end: str) -> Any:
    text = templates.TextFormat(start=start, end=end)
    return lambda: templates.Format(image=templates.ImageFormat(placeholder=''), text=text)


def _grounded() -> templates.Format:
    form = templates.kosmos()
    form.image.after += '<grounding>'
    return form


def _idefics_form() -> templates.Format:
    around = '<fake_token_around_image>'
    image = templates.ImageFormat(before=around, after=around)
    return templates.Format(image=image, text=templates.TextFormat(start='<s>', end='</s>'))


def _cogvlm_layout(public: Public) -> dict[str, Any]:
    second = public.get('num_multi_query_heads', public['num_attention_heads']) != public['num_attention_heads']
    words = ('<|reserved_special_token_0|>', '<|begin_of_text|>', '<|end_of_text|>') if second else ()
    return _written(lambda: templates.cogvlm(*words), dialects.cogvlm, max_media=1)(public)


def _tiled(form: Callable[[], templates.Format], image: templates.ImageFormat | None = None) -> Any:
    """The layout of pictures that are an overview and tiles."""
    return lambda public: dict(image=image or form().image, text=form().text, tiles=llava_next.tiles(public))


def _words(
    model_type: str, config: Callable[[Public], Any], table: Callable[[Any], Table], layout: Any = None
) -> Architecture:
    """A language model: a Vlm that sees no pictures."""
    return Architecture(
        model_type,
        lambda public: Vlm.Config(decoder=config(public)),
        lambda c, public, names: table(c.decoder).under('decoder/', ''),
        layout or _written(_nothing_around),
    )


def _plain(
    model_type: str, config: Callable[[Public], Any], table: Callable[[Any], Table], layout: Any = None, **more: Any
) -> Architecture:
    """An architecture whose names follow from our config."""
    return Architecture(
        model_type, config, lambda c, public, names: table(c), layout or _written(_nothing_around), **more
    )


def _spelt(model_type: str, module: Any, layout: Any, written: str = 'hub') -> Architecture:
    """An architecture whose parts stand in one of llava.LAYOUTS; `written` is the one that is exported."""
    table = lambda c, public, names: module.table(c, written if names is None else llava.layout_of(names))
    return Architecture(model_type, module.config, table, layout)


def _native(model_type: str, config: Callable[[Public], Any], least: int) -> Architecture:
    """A Qwen with a tower for pictures of any shape, enlarged to at least so many squares."""
    table = lambda c, public, names: qwen_native.table(c, qwen_native.layout_of(names) if names else None)
    return Architecture(model_type, config, table, _written(templates.qwen_native, fit='whole', least=least))


def _idefics(c: Any, public: Public, names: Names) -> Table:
    return idefics.table(c, public.get('additional_vocab_size', 0))


def _florence(c: Any, public: Public, names: Names) -> Table:
    return florence2.table(c, florence2.HUB if names is None else florence2.layout_of(names))


def _blip2_layout(public: Public) -> dict[str, Any]:
    kind = public['text_config'].get('model_type', 'opt')
    if kind == 't5':
        return _written(templates.t5, overlong='cut')(public)
    return _written(lambda: templates.blip2(*(('</s>', '\n') if kind == 'opt' else ('<s>', '</s>'))))(public)


def _blip2(model_type: str, beside: str | None = None) -> Architecture:
    table = lambda c, public, names: blip2.table(c, public['text_config'].get('model_type', 'opt'))
    return Architecture(model_type, blip2.config, table, _blip2_layout, beside)


ARCHITECTURES = {
    'LlavaForConditionalGeneration': _spelt('llava', llava, _written(templates.vicuna, dialects.llava, fit='pad')),
    'LlavaNextForConditionalGeneration': _spelt('llava_next', llava_next, _tiled(templates.vicuna)),
    'LlavaOnevisionForConditionalGeneration': _spelt(
        'llava_onevision', llava_next, _tiled(templates.chatml, templates.ImageFormat(after='\n'))
    ),
    'PaliGemmaForConditionalGeneration': _spelt(
        'paligemma', paligemma, _written(templates.paligemma, dialects.paligemma, two_way_prompt=True)
    ),
    'InternVLForConditionalGeneration': _spelt('internvl', internvl, _written(templates.internvl), 'flat'),
    'Gemma3ForConditionalGeneration': _spelt('gemma3', gemma3, _written(templates.gemma3)),
    'SmolVLMForConditionalGeneration': _plain('smolvlm', smolvlm.config, smolvlm.table, _written(templates.smolvlm)),
    'QWenLMHeadModel': _plain('qwen', qwen_vl.config, qwen_vl.table, _written(templates.chatml, dialects.qwen_vl)),
    'Qwen2_5_VLForConditionalGeneration': _native('qwen2_5_vl', qwen_native.qwen2_5, 4),
    'Qwen3VLForConditionalGeneration': _native('qwen3_vl', qwen_native.qwen3, 64),
    'BlipForConditionalGeneration': _plain('blip', blip.captioner, blip.captioner_table, _written(templates.blip)),
    'BlipForImageTextRetrieval': _plain('blip', blip.retriever, blip.retriever_table),
    'BlipForQuestionAnswering': _plain(
        'blip', blip.answerer, blip.answerer_table, _written(templates.blip), beside='.'
    ),
    'Blip2ForConditionalGeneration': _blip2('blip-2'),
    'InstructBlipForConditionalGeneration': _blip2('instructblip', 'qformer_tokenizer'),
    'InstructBlipVideoForConditionalGeneration': _blip2('instructblipvideo', 'qformer_tokenizer'),
    'CogVLMForCausalLM': _plain('cogvlm', cogvlm.config, cogvlm.table, _cogvlm_layout),
    'Florence2ForConditionalGeneration': Architecture(
        'florence2', florence2.config, _florence, _written(templates.bart, dialects.florence_2, overlong='cut')
    ),
    'FuyuForCausalLM': _plain('fuyu', fuyu.config, fuyu.table, _written(templates.fuyu, dialects.fuyu, fit='inside')),
    'IdeficsForVisionText2Text': Architecture('idefics', idefics.config, _idefics, _written(_idefics_form)),
    'Kosmos2ForConditionalGeneration': _plain(
        'kosmos-2', kosmos2.config, kosmos2.table, _written(_grounded, dialects.kosmos_2)
    ),
    'CLIPModel': _plain(
        'clip', clip.clip, clip.clip_table, _written(_between('<|startoftext|>', '<|endoftext|>'), fit='crop')
    ),
    'Kosmos2_5ForConditionalGeneration': _plain(
        'kosmos-2.5',
        kosmos25.config,
        kosmos25.table,
        _written(templates.kosmos25, dialects.kosmos_2_5, fit='budget'),
    ),
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
    'BartForConditionalGeneration': _words('bart', bart.config, bart.table, _written(templates.bart, overlong='cut')),
    # A model that fills gaps reads both ways, and so does all that is only asked here.
    'BertForMaskedLM': _words(
        'bert', bert.masked, bert.masked_table, _written(_between('[CLS]', '[SEP]'), two_way_prompt=True)
    ),
    'T5ForConditionalGeneration': _words('t5', t5.config, t5.table, _written(templates.t5, overlong='cut')),
}
