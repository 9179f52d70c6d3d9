# SPDX-License-Identifier: Apache-2.0
"""Vision towers and language models by their published names; each number is written here, once.

What has a public checkpoint is described as its config.json describes it, by the functions that also read those files.
Numbers marked (unverified) were written from memory of the papers and not compared with them.
"""

import dataclasses
from typing import Any, NamedTuple

from mmjax.config import Load
from mmjax.data.beside import Beside
from mmjax.data.tokenizer import HuggingFace, SentencePiece
from mmjax.models.decoder import Decoder
from mmjax.models.qformer import Qformer
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, GatedBlock
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Rotary, Sinusoidal
from mmjax.weights import Table, blip, blip2, clip, fuyu, gemma, llama, qwen, t5
from mmjax.weights import gpt2 as gpt2_layout
from mmjax.weights import opt as opt_layout
from mmjax.weights import qformer as qformer_layout


class Size(NamedTuple):
    """The numbers that tell the sizes of one family apart."""

    width: int
    depth: int
    heads: int


# (unverified) 1.4, 7.1 and 70 billion parameters, of which width^2 a block belong to the relative positions. With
# rotary ones they are 1.27, 6.57 and 64.7 billion.
CHINCHILLA = {'1.4b': Size(2048, 24, 16), '7b': Size(4096, 32, 32), '70b': Size(8192, 80, 64)}
# (unverified) 8.63, 62.50 and 540.35 billion parameters.
PALM = {'8b': Size(4096, 32, 16), '62b': Size(8192, 64, 32), '540b': Size(18432, 118, 48)}
LLAMA = {
    '7b': dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008),
    '13b': dict(hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, intermediate_size=13824),
}
OPT = {
    '125m': dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, ffn_dim=3072),
    '2.7b': dict(hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, ffn_dim=10240),
    '6.7b': dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, ffn_dim=16384),
}
GPT2 = {
    'small': dict(n_embd=768, n_layer=12, n_head=12),
    'medium': dict(n_embd=1024, n_layer=24, n_head=16),
    'large': dict(n_embd=1280, n_layer=36, n_head=20),
    'xl': dict(n_embd=1600, n_layer=48, n_head=25),
}
FLAN_T5 = {
    'xl': dict(d_model=2048, d_ff=5120, num_heads=32, num_layers=24),
    'xxl': dict(d_model=4096, d_ff=10240, num_heads=64, num_layers=24),
}
# Width, depth, heads, key heads, MLP width.
GEMMA = {'2b': (2048, 18, 8, 1, 16384), '7b': (3072, 28, 16, 16, 24576)}
GEMMA2 = {'2b': (2304, 26, 8, 4, 9216), '9b': (3584, 42, 16, 8, 14336)}
GEMMA3 = {
    '1b': (1152, 26, 4, 1, 6912),
    '4b': (2560, 34, 8, 4, 10240),
    '12b': (3840, 48, 16, 8, 15360),
    '27b': (5376, 62, 32, 16, 21504),
}
QWEN2_7B = dict(
    hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944
)
QWEN3_8B = dict(
    hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, intermediate_size=12288
)
VIT_L_16 = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
CLIP_L = dict(
    patch_size=14, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
)  # 303.2 million parameters at 224 pixels


def clip_l(side: int, *, layer: int = -1, normed: bool = True, keep_cls: bool = False) -> Vit.Config:
    """CLIP's ViT-L/14 for pictures of side x side pixels; its features are what leaves block `layer`."""
    return clip.vision({**CLIP_L, 'image_size': side}, layer=layer, features_normed=normed, keep_cls=keep_cls)


def wide_vit() -> Vit.Config:
    """A ViT-15/16 of 427 million parameters, for pictures of 320 x 320 pixels.

    It stands in for Flamingo's NFNet-F6, a convolutional tower of 435 million parameters (unverified), and gives
    features as wide as that one's.
    """
    return Vit.Config(
        size=(320, 320), patch=16, width=1536, depth=15, block=_block(heads=16, mlp=6144), mean=clip.MEAN, std=clip.STD
    )


def vit_4b() -> Vit.Config:
    """PaLI's ViT-e, 3.80 billion parameters without its pooling head (unverified)."""
    return Vit.Config(patch=14, width=1792, depth=56, block=_block(heads=16, mlp=15360))


def vit_22b() -> Vit.Config:
    """ViT-22B: attention and MLP side by side, queries and keys normed; 21.74 billion parameters (unverified)."""
    norm = Norm.Config(bias=False)
    attn = Attention.Config(heads=48, qk_norm=norm, o_bias=True)
    block = Block.Config(attn=attn, mlp=Mlp.Config(width=24576), norm=norm, parallel=True)
    return Vit.Config(patch=14, width=6144, depth=48, block=block, norm=norm)


def vicuna(size: str, vocab: int = 32_000, eps: float = 1e-6) -> Decoder.Config:
    """LLaMA, whose shape Vicuna has: 6.74 or 13.02 billion parameters; version 1.5, of LLaMA-2, has an eps of 1e-5."""
    return llama.config({**LLAMA[size], 'vocab_size': vocab, 'rms_norm_eps': eps})


def opt(size: str) -> Decoder.Config:
    """OPT: 2.65 or 6.66 billion parameters."""
    return opt_layout.config(OPT[size])


def gpt2(size: str = 'small') -> Decoder.Config:
    """GPT-2: 124, 355, 774 million or 1.56 billion parameters."""
    return gpt2_layout.config(GPT2[size])


def flan_t5(size: str) -> Seq2seq.Config:
    """FLAN-T5: 2.85 or 11.1 billion parameters."""
    return t5.config({**FLAN_T5[size], 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False})


def gemma1(size: str = '2b') -> Decoder.Config:
    """The first Gemma: 2.51 or 8.54 billion parameters."""
    return gemma.gemma(_gemma(GEMMA[size]))


def gemma2(size: str = '2b') -> Decoder.Config:
    """Gemma 2: 2.61 or 9.24 billion parameters."""
    return gemma.gemma2(_gemma(GEMMA2[size]))


def gemma3(size: str = '1b') -> Decoder.Config:
    """Gemma 3's language model: 1.00, 3.88, 11.77 or 27.01 billion parameters."""
    return gemma.gemma3(gemma3_text(size))


def gemma3_text(size: str) -> dict[str, Any]:
    """The config.json of that language model."""
    if size == '1b':
        more = dict(vocab_size=262_144, sliding_window=512)
    else:
        more = dict(vocab_size=262_208, sliding_window=1024, rope_scaling=dict(rope_type='linear', factor=8.0))
    # Scores are scaled as by the mean width of a head, its real one is a power of two.
    heads = dict(head_dim=128, query_pre_attn_scalar=168) if size == '27b' else {}
    return {**_gemma(GEMMA3[size]), **more, **heads}


def _gemma(numbers: tuple[int, ...]) -> dict[str, int]:
    names = ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'num_key_value_heads', 'intermediate_size')
    return dict(zip(names, numbers, strict=True))


def qwen2() -> Decoder.Config:
    """Qwen2-7B, 7.62 billion parameters."""
    return qwen.qwen2({**QWEN2_7B, 'vocab_size': 152_064, 'rope_theta': 1e6})


def qwen3() -> Decoder.Config:
    """Qwen3-8B, 8.19 billion parameters."""
    return qwen.qwen3({**QWEN3_8B, 'rope_theta': 1e6})


def persimmon() -> Decoder.Config:
    """Persimmon-8B, 9.40 billion parameters with its vocabulary of 262,144."""
    return fuyu.decoder({})


def magneto(position: Rotary.Config | Sinusoidal.Config, *, vocab: int, input_scale: float = 1.0) -> Decoder.Config:
    """The decoder of KOSMOS-1 and 2, with a norm inside of each branch (sub-LN): 1.34 billion parameters."""
    norm = Norm.Config()
    attn = Attention.Config(heads=32, q_bias=True, k_bias=True, v_bias=True, o_bias=True, inner_norm=norm)
    block = Block.Config(attn=attn, mlp=Mlp.Config(width=8192, inner_norm=norm), norm=norm)
    return Decoder.Config(
        vocab=vocab, width=2048, depth=24, block=block, position=position, tied=True, input_scale=input_scale
    )


def chinchilla(size: str) -> Decoder.Config:
    """Chinchilla with rotary positions in the place of relative ones."""
    s, norm = CHINCHILLA[size], Norm.Config(kind='rms')
    mlp = Mlp.Config(width=4 * s.width, act='gelu_tanh', bias=False)
    block = Block.Config(attn=Attention.Config(heads=s.heads), mlp=mlp, norm=norm)
    return Decoder.Config(vocab=32_128, width=s.width, depth=s.depth, block=block, norm=norm, tied=True)


def gated(size: str) -> GatedBlock.Config:
    """The block through which a Chinchilla looks at pictures in Flamingo."""
    s = CHINCHILLA[size]
    mlp = Mlp.Config(width=4 * s.width, act='relu2', bias=False)
    return GatedBlock.Config(attn=Attention.Config(heads=s.heads), mlp=mlp)


def palm(size: str) -> Decoder.Config:
    """PaLM: attention and MLP side by side, one key head for all queries."""
    s, norm = PALM[size], Norm.Config(bias=False)
    mlp = Mlp.Config(width=4 * s.width, act='silu', gated=True, bias=False)
    attn = Attention.Config(heads=s.heads, kv_heads=1, head_width=256)
    return Decoder.Config(
        vocab=256_128,
        width=s.width,
        depth=s.depth,
        block=Block.Config(attn=attn, mlp=mlp, norm=norm, parallel=True),
        norm=norm,
        position=Rotary.Config(interleaved=True),
        tied=True,
        embed_std=1.0,  # no norm follows the table, and the logits' scale undoes it
        logit_scale=s.width**-0.5,
    )


def blip_captioner(size: str) -> Vlm.Config:
    """BLIP's captioner, 224.0 million parameters with a ViT-B/16, 447 with a ViT-L/16."""
    text = dict(num_attention_heads=12)  # else the public class would take 8
    return blip.captioner(dict(text_config=text, vision_config=VIT_L_16 if size == 'large' else {}))


def eva_g() -> Vit.Config:
    """EVA-CLIP's ViT-g/14 as BLIP-2 takes it: 39 of its 40 blocks, 986.0 million parameters."""
    return blip2.vision({})


def qformer(**ours) -> Qformer.Config:
    """A Q-Former of BERT's size beside EVA-CLIP: 105.1 million parameters, and 80.6 that read words."""
    return qformer_layout.config({'vocab_size': 30_523}, queries=32, reads=True, **ours)


def asking() -> Qformer.Config:
    """The Q-Former alone: it reads no words and judges nothing, 105.1 million parameters."""
    return qformer_layout.config({}, queries=32, reads=False)


def beside(*, learnt: bool) -> Beside.Config:
    """The words beside pictures as BERT reads them; `learnt`: captions, which [DEC] begins where they are written."""
    words = HuggingFace.Config(path='weights/bert-base-uncased', special=('[DEC]',))
    return Beside.Config(tokenizer=words, learnt=learnt)


def tokenizer(path: str, *writers) -> SentencePiece.Config | HuggingFace.Config:
    """The tokenizer of a file or folder, grown by the special tokens of all `writers`: formats and coordinates."""
    special = tuple(dict.fromkeys(token for writer in writers for token in writer.special_tokens()))
    kind = SentencePiece if path.endswith('.model') else HuggingFace
    return kind.Config(path=path, special=special)


def clip_l_weights(side: int) -> Load:
    """The weights of openai/clip-vit-large-patch14, or of its version for 336 pixels."""
    name = 'clip-vit-large-patch14' + ('' if side == 224 else f'-{side}')
    return Load(
        f'weights/{name}', paths=('encoder/.*',), table=clip.vision_table, part='encoder', prefix='vision_model.'
    )


def eva_g_weights() -> Load:
    """The weights of EVA-CLIP's tower, out of Salesforce/blip2-opt-2.7b."""
    path = 'weights/blip2-opt-2.7b'
    return Load(path, paths=('encoder/.*',), table=blip.vision_table, part='encoder', prefix='vision_model.')


def vicuna_weights(size: str) -> Load:
    """The weights of lmsys/vicuna-7b-v1.5 or 13b."""
    return Load(f'weights/vicuna-{size}-v1.5', paths=('decoder/.*',), table=vicuna_table, part='decoder')


def vicuna_table(c: Decoder.Config) -> Table:
    """The names of a LLaMA, whose words are the model's first ones; special tokens behind them begin as zeros."""
    return llama.table(dataclasses.replace(c, vocab=32_000))


def _block(*, heads: int, mlp: int) -> Block.Config:
    """The block of an ordinary ViT."""
    attn = Attention.Config(heads=heads, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    return Block.Config(attn=attn, mlp=Mlp.Config(width=mlp))
