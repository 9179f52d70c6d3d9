# SPDX-License-Identifier: Apache-2.0
import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mmjax.data.tokenizer import Bytes, HuggingFace, SentencePiece, specials_in

WORDS = ['A cat sat on the mat.', 'the cat, the mat', 'USER: where is the cat? ASSISTANT: here', '[0.123,0.5]'] * 8
SPECIAL = ('<image>', '</s>', '<box>')
TEXT = 'the <image> cat  sat é 猫\n'


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Tiny tokenizer files of the three kinds that public models have."""
    folder = tmp_path_factory.mktemp('tokenizers')
    byte_level = tokenizers.Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=['</s>'], initial_alphabet=alphabet, show_progress=False
    )
    byte_level.train_from_iterator(WORDS, trainer)
    byte_level.add_tokens(['<box>'])  # in the vocabulary, but not marked special
    (folder / 'bytes').mkdir()
    byte_level.save(str(folder / 'bytes' / 'tokenizer.json'))

    metaspace = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>'))
    metaspace.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    metaspace.decoder = decoders.Sequence(
        [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)]
    )
    fallback = [f'<0x{i:02X}>' for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=['<unk>', '</s>', *fallback], show_progress=False)
    metaspace.train_from_iterator(WORDS, trainer)
    spec = json.loads(metaspace.to_str())
    # In published files the bytes are ordinary words.
    spec['added_tokens'] = [token for token in spec['added_tokens'] if not token['content'].startswith('<0x')]
    (folder / 'metaspace.json').write_text(json.dumps(spec))

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS),
        model_writer=model,
        vocab_size=320,
        model_type='bpe',
        byte_fallback=True,
        normalization_rule_name='identity',
        remove_extra_whitespaces=False,
        user_defined_symbols=['<box>'],
        minloglevel=2,
    )
    (folder / 'words.model').write_bytes(model.getvalue())
    return folder


KINDS = ('bytes', 'byte_level', 'metaspace', 'sentencepiece')


def build(kind, files, special=SPECIAL):
    config = {
        'bytes': lambda: Bytes.Config(special=special),
        'byte_level': lambda: HuggingFace.Config(path=str(files / 'bytes'), special=special),
        'metaspace': lambda: HuggingFace.Config(path=str(files / 'metaspace.json'), special=special),
        'sentencepiece': lambda: SentencePiece.Config(path=str(files / 'words.model'), special=special),
    }[kind]()
    return config.build()


every = pytest.mark.parametrize('kind', KINDS)


@every
def test_round_trip(kind, files):
    tokenizer = build(kind, files)
    assert tokenizer.decode(tokenizer.encode(TEXT, special=False)) == TEXT
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode('') == [] and tokenizer.decode([]) == ''
    assert all(0 <= i < tokenizer.size for i in tokenizer.encode(TEXT))


@every
def test_users_cannot_write_special_tokens(kind, files):
    tokenizer = build(kind, files)
    text = 'a <image> and <box> and </s>'
    special = {tokenizer.id(name) for name in SPECIAL}
    assert special <= set(tokenizer.encode(text))
    assert not special & set(tokenizer.encode(text, special=False))
    assert tokenizer.decode(tokenizer.encode(text, special=False)) == text


@every
def test_growing(kind, files):
    small, large = build(kind, files, ()), build(kind, files, (*SPECIAL, '<new>', '<image>'))
    known = sum(name in small.special or small._find(name) is not None for name in SPECIAL)
    assert large.size == small.size + 4 - known
    assert large.id('<new>') == large.size - 1
    assert large.encode('<new>') == [large.size - 1]
    assert large.encode('the cat', special=False) == small.encode('the cat', special=False)


@every
def test_missing_token_says_the_way_out(kind, files):
    tokenizer = build(kind, files)
    with pytest.raises(ValueError, match=r"has no special token '<nope>'; add special=\('<nope>',\) to its Config"):
        tokenizer.id('<nope>')
    with pytest.raises(ValueError, match=tokenizer.name.split('(')[0]):
        tokenizer.id('<nope>')


@every
def test_continuations_get_no_space(kind, files):
    tokenizer = build(kind, files)
    start, rest = tokenizer.encode('the', special=False), tokenizer.encode(' cat sat', special=False, first=False)
    assert tokenizer.decode(start + rest) == 'the cat sat'
    glued = start + tokenizer.encode('cat', special=False, first=False)
    assert tokenizer.decode(glued) == 'thecat'


@every
def test_spelling_is_what_tokens_write(kind, files):
    tokenizer = build(kind, files)
    ids = tokenizer.encode('the<image> cat é\n<box>', first=False)
    assert len(tokenizer.spelling) == tokenizer.size
    written = b''.join(tokenizer.spelling[i] for i in ids).decode()
    assert written.lstrip(' ') == 'the<image> cat é\n<box>' or tokenizer.prefix_every


def test_names_can_be_left_out(files):
    tokenizer = Bytes.Config(special=SPECIAL).build()
    assert tokenizer.decode(tokenizer.encode('<image>a</s>'), special=False) == 'a'


def test_space_after_special_tokens_is_a_habit_of_some_files(files):
    every = SentencePiece.Config(path=str(files / 'words.model'), special=SPECIAL, prefix_every=True).build()
    never = SentencePiece.Config(path=str(files / 'words.model'), special=SPECIAL).build()
    assert len(every.encode('<image>\n')) == len(never.encode('<image>\n')) + 1
    assert build('metaspace', files).prefix_every and not build('byte_level', files).prefix_every


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match='must name a'):
        HuggingFace.Config(path='/nowhere').build()
    with pytest.raises(FileNotFoundError, match='must name a'):
        SentencePiece.Config(path='/nowhere').build()


def test_specials_in_format_strings():
    assert specials_in('USER: <image>\n', '<|im_end|>', '|NEWLINE| <image> a < b') == (
        '<image>',
        '<|im_end|>',
        '|NEWLINE|',
    )
