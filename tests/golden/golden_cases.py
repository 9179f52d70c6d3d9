# SPDX-License-Identifier: Apache-2.0
"""What the references of our own are made of: tiny configs, inputs and outputs of classes of transformers.

The odd cases are here on purpose: grouped heads, heads tied to the table and not, vocabularies of odd sizes, pictures
that are no squares, several in one row and none, padding on either side.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]
WIDTH, VOCAB, IMAGE = 48, 101, 100  # the last word stands for pictures


@dataclasses.dataclass
class Case:
    """One reference: a class, its config's arguments, its inputs, and how outputs are read from what it returns."""

    kind: str
    config: dict[str, Any]
    inputs: Callable[[np.random.Generator], Inputs]
    note: str
    outputs: dict[str, Callable[[Any], Any]] = dataclasses.field(
        default_factory=lambda: {'logits': lambda out: out.logits, 'loss': lambda out: out.loss}
    )
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    kept: tuple[str, ...] = ('logit_scale', 'logit_bias', 'rotary', 'inv_freq')  # weights that stay as they begin
    doubles: bool = True  # whether the class computes in float64 too, which tells the noise
    seed: int = 7

    def keeps(self, name: str) -> bool:
        """Returns whether a weight stays as it begins."""
        return any(part in name for part in self.kept)


def read(*names: str) -> dict[str, Callable[[Any], Any]]:
    """Returns readers of outputs that are attributes."""
    return {name: lambda out, name=name: out[name] for name in names}


def words(rng: np.random.Generator, lengths: tuple[int, ...], side: str = 'right', vocab: int = IMAGE) -> Inputs:
    """Returns token ids, mask and labels of rows of these lengths, padded on a side; a third are no labels."""
    total = max(lengths)
    place = np.arange(total)
    mask = np.stack([place < n if side == 'right' else place >= total - n for n in lengths])
    ids = rng.integers(5, vocab, mask.shape)
    ids = np.where(mask, ids, 0)
    first = mask & (mask.cumsum(axis=1) == 1)  # nothing foretells it
    labels = np.where(mask & ~first & (rng.random(mask.shape) > 1 / 3), ids, -100)
    return dict(input_ids=ids, attention_mask=mask.astype(np.int64), labels=labels)


def with_pictures(inputs: Inputs, starts: tuple[tuple[int, ...], ...], tokens: int) -> Inputs:
    """Returns rows in which pictures of `tokens` tokens begin at these places of each row."""
    for row, places in enumerate(starts):
        for at in places:
            inputs['input_ids'][row, at : at + tokens] = IMAGE
            inputs['labels'][row, at : at + tokens] = -100
    return inputs


def pixels(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Returns normal pixels."""
    return rng.standard_normal(shape).astype(np.float32)


def decoder(**changes: Any) -> dict[str, Any]:
    """Returns the arguments that most language models share, with six heads on three of keys."""
    base = dict(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=72, num_hidden_layers=3, num_attention_heads=6)
    base |= dict(num_key_value_heads=3, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return base | changes


def language(kind: str, note: str, side: str = 'left', *, drop: tuple[str, ...] = (), **changes: Any) -> Case:
    """Returns the case of a plain language model."""
    config = {key: value for key, value in decoder(**changes).items() if key not in drop}
    return Case(kind, config, lambda rng: words(rng, (13, 9, 4), side), f'{note}, padding on the {side}')


TOWER = dict(hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=2)


def pair(rng: np.random.Generator) -> Inputs:
    """Returns four pictures and four texts of several lengths that end with the end sign."""
    rows = words(rng, (11, 7, 5, 9))
    ends = rows['attention_mask'].sum(axis=1) - 1
    rows['input_ids'][np.arange(4), ends] = IMAGE
    rows['input_ids'] = np.where(rows['attention_mask'] == 1, rows['input_ids'], IMAGE)
    del rows['labels']
    return dict(rows, pixel_values=pixels(rng, 4, 3, 42, 42))


def clip_pair() -> Case:
    """Returns CLIP's two towers."""
    text = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3)
    text |= dict(max_position_embeddings=16, bos_token_id=99, eos_token_id=IMAGE, pad_token_id=IMAGE)
    config = dict(text_config=text, vision_config=dict(TOWER, image_size=42, patch_size=14), projection_dim=20)
    outputs = read('image_embeds', 'text_embeds', 'logits_per_image', 'loss')
    return Case('CLIPModel', config, pair, 'towers of different widths', outputs, dict(return_loss=True))


def siglip_pair() -> Case:
    """Returns SigLIP's two towers; the text tower reads rows that are full."""
    text = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4)
    text |= dict(max_position_embeddings=11, projection_size=32)
    config = dict(text_config=text, vision_config=dict(TOWER, image_size=42, patch_size=14))
    inputs = lambda rng: {key: value for key, value in pair(rng).items() if key != 'attention_mask'}
    outputs = read('image_embeds', 'text_embeds', 'logits_per_image', 'loss')
    return Case('SiglipModel', config, inputs, 'texts as long as the tower', outputs, dict(return_loss=True))


def llava() -> Case:
    """Returns LLaVA: two pictures in a row, one in the next, none in the last; padding on the left."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = with_pictures(words(rng, (27, 20, 8), 'left'), ((2, 13), (9,), ()), tokens=9)
        return dict(rows, pixel_values=pixels(rng, 3, 3, 42, 42))

    config = dict(
        text_config=dict(decoder(), model_type='llama'),
        vision_config=dict(TOWER, model_type='clip_vision_model', image_size=42, patch_size=14),
        image_token_index=IMAGE,
        image_seq_length=9,
    )
    return Case('LlavaForConditionalGeneration', config, inputs, 'two pictures, one and none; padding on the left')


def kosmos2() -> Case:
    """Returns Kosmos-2: a resampler of four tokens."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = words(rng, (14, 9))
        rows['input_ids'] += rows['input_ids'] == 0  # 1 pads
        place = np.zeros_like(rows['input_ids'])
        place[:, 2:6] = 1
        rows['labels'][place == 1] = -100
        return dict(rows, image_embeds_position_mask=place, pixel_values=pixels(rng, 2, 3, 42, 42))

    text = dict(vocab_size=VOCAB, max_position_embeddings=64, embed_dim=32, layers=3, ffn_dim=72, attention_heads=4)
    config = dict(text_config=text, vision_config=dict(TOWER, image_size=42, patch_size=14), latent_query_num=4)
    return Case(
        'Kosmos2ForConditionalGeneration', config, inputs, 'four latent queries; padding on the right', doubles=False
    )


def fuyu() -> Case:
    """Returns Fuyu: a picture of 2 x 5 patches, two rows of text of which one is padded."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = with_pictures(words(rng, (23, 19), 'left'), ((6,), (6,)), tokens=10)
        return dict(rows, pixel_values=pixels(rng, 2, 10, 6 * 6 * 3))

    config = dict(decoder(), patch_size=6, num_channels=3, image_token_id=IMAGE)
    del config['num_key_value_heads']
    return Case('FuyuForCausalLM', config, inputs, 'a picture that is no square')


def blip2() -> Case:
    """Returns BLIP-2 on OPT: seven queries before the text."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = with_pictures(words(rng, (17, 12)), ((0,), (0,)), tokens=7)
        return dict(rows, pixel_values=pixels(rng, 2, 3, 42, 42))

    qformer = dict(vocab_size=60, hidden_size=36, num_hidden_layers=4, num_attention_heads=3, intermediate_size=40)
    qformer |= dict(cross_attention_frequency=2, encoder_hidden_size=32, max_position_embeddings=16)
    text = dict(vocab_size=VOCAB, hidden_size=WIDTH, ffn_dim=72, num_hidden_layers=2, num_attention_heads=4)
    text |= dict(word_embed_proj_dim=WIDTH, max_position_embeddings=64, model_type='opt')
    config = dict(vision_config=dict(TOWER, image_size=42, patch_size=14), qformer_config=qformer, text_config=text)
    config |= dict(num_query_tokens=7, image_token_index=IMAGE)
    return Case('Blip2ForConditionalGeneration', config, inputs, 'seven queries, four blocks')


def idefics() -> Case:
    """Returns IDEFICS: a grown vocabulary; rows with two pictures, each seen by what follows it, and with none."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = words(rng, (15, 11))
        del rows['labels']
        seen = np.zeros((2, 15, 2), np.int64)
        seen[0, 2:8, 0] = seen[0, 8:, 1] = 1
        return dict(rows, pixel_values=pixels(rng, 2, 2, 3, 42, 42), image_attention_mask=seen)

    config = {key: value for key, value in decoder().items() if key != 'num_key_value_heads'}
    config |= dict(
        num_hidden_layers=4, additional_vocab_size=3, cross_layer_interval=2, qk_layer_norms=True, use_resampler=True
    )
    config['vision_config'] = dict(
        embed_dim=32, image_size=42, patch_size=14, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4
    )
    config['perceiver_config'] = dict(
        resampler_n_latents=5, resampler_depth=2, resampler_n_heads=3, resampler_head_dim=8, use_resampler=True
    )
    note = 'a grown vocabulary; two pictures in turn, and none'
    return Case('IdeficsForVisionText2Text', config, inputs, note, read('logits'))


def paligemma() -> Case:
    """Returns PaliGemma: picture and prompt see each other, the answer follows."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = with_pictures(words(rng, (19, 15)), ((0,), (0,)), tokens=9)
        answers = np.zeros_like(rows['input_ids'])
        answers[0, 14:] = answers[1, 12:15] = 1
        rows['labels'] = np.where(answers == 1, rows['input_ids'], -100)
        return dict(rows, token_type_ids=answers, pixel_values=pixels(rng, 2, 3, 42, 42))

    config = dict(
        text_config=dict(decoder(num_attention_heads=4, num_key_value_heads=1, head_dim=12), model_type='gemma'),
        vision_config=dict(
            TOWER, model_type='siglip_vision_model', image_size=42, patch_size=14, vision_use_head=False
        ),
        image_token_index=IMAGE,
        projection_dim=WIDTH,
    )
    outputs = {'logits_train': lambda out: out.logits, 'loss': lambda out: out.loss}
    return Case('PaliGemmaForConditionalGeneration', config, inputs, 'one head of keys for four', outputs)


def t5() -> Case:
    """Returns T5: inputs and outputs of different lengths."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = words(rng, (12, 7))
        return dict(rows, labels=rng.integers(5, IMAGE, (2, 8)))

    config = dict(vocab_size=VOCAB, d_model=WIDTH, d_kv=8, d_ff=72, num_layers=3, num_decoder_layers=2, num_heads=5)
    config |= dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False, decoder_start_token_id=0)
    outputs = read('logits', 'loss', 'encoder_last_hidden_state')
    return Case('T5ForConditionalGeneration', config, inputs, 'a head of its own; heads wider than the model', outputs)


def florence2() -> Case:
    """Returns Florence-2: maps that are no multiple of their windows, prompts and answers of several lengths."""

    def inputs(rng: np.random.Generator) -> Inputs:
        rows = with_pictures(words(rng, (17, 13)), ((0,), (0,)), tokens=10)
        labels = rng.integers(5, IMAGE, (2, 7))
        labels[1, 5:] = -100
        return dict(rows, labels=labels, pixel_values=pixels(rng, 2, 3, 96, 96))

    tower = dict(embed_dim=(6, 12, 12, 18), depths=(1, 1, 2, 1), num_heads=(2, 3, 2, 3), num_groups=(3, 2, 4, 2))
    tower |= dict(window_size=5, mlp_ratio=2.0, projection_dim=WIDTH, max_position_embeddings=4)
    text = dict(model_type='bart', vocab_size=VOCAB, d_model=WIDTH, max_position_embeddings=40, encoder_layers=2)
    text |= dict(decoder_layers=3, encoder_attention_heads=6, decoder_attention_heads=4, encoder_ffn_dim=56)
    text |= dict(decoder_ffn_dim=72, pad_token_id=1, decoder_start_token_id=2, tie_word_embeddings=True)
    outputs = read('logits', 'loss') | {'encoder_last': lambda out: out.encoder_last_hidden_state}
    config = dict(vision_config=tower, text_config=text, image_token_id=IMAGE)
    note = 'windows that do not fill a map; stacks of different depth and heads; padding on the right'
    return Case('Florence2ForConditionalGeneration', config, inputs, note, outputs, kept=('pos_idx_to_embed',))


CASES: dict[str, Case] = {
    'llama_grouped': language('LlamaForCausalLM', 'grouped heads, a head of its own'),
    'llama_tied': language(
        'LlamaForCausalLM', 'a tied head, wide heads', 'right', tie_word_embeddings=True, head_dim=12
    ),
    'qwen2': language('Qwen2ForCausalLM', 'a tied head', tie_word_embeddings=True),
    'qwen3': language('Qwen3ForCausalLM', 'one head of keys', num_key_value_heads=1, head_dim=10),
    'gemma2': language(
        'Gemma2ForCausalLM', 'a window of 4', 'right', head_dim=8, query_pre_attn_scalar=11, sliding_window=4
    ),
    'gemma3': language('Gemma3ForCausalLM', 'a window of 5', head_dim=8, sliding_window=5, query_pre_attn_scalar=9),
    'opt': language(
        'OPTForCausalLM',
        'biases',
        drop=('intermediate_size', 'num_key_value_heads'),
        ffn_dim=72,
        word_embed_proj_dim=WIDTH,
    ),
    'gpt2': Case(
        'GPT2LMHeadModel',
        dict(vocab_size=VOCAB, n_embd=WIDTH, n_layer=3, n_head=6, n_positions=40, n_inner=72, bos_token_id=1),
        lambda rng: words(rng, (13, 9, 4)),
        'an inner width of its own; padding on the right',
    ),
    'persimmon': language('PersimmonForCausalLM', 'a part of each head turns', drop=('num_key_value_heads',)),
    'cohere': language('CohereForCausalLM', 'grouped heads', logit_scale=0.3),
    't5': t5(),
    'clip': clip_pair(),
    'siglip': siglip_pair(),
    'llava': llava(),
    'kosmos2': kosmos2(),
    'fuyu': fuyu(),
    'blip2': blip2(),
    'idefics': idefics(),
    'paligemma': paligemma(),
    'florence2': florence2(),
}
