# SPDX-License-Identifier: Apache-2.0
import pytest

from mmjax.data.tokenizer import Bytes, HuggingFace, SentencePiece, specials_in

SPECIAL = ('<image>', '</s>', '<box>')
TEXT = 'the <image> cat  sat é 猫\n'


KINDS = ('bytes', 'byte_level', 'metaspace', 'sentencepiece')


def build(kind, tokenizer_files, special=SPECIAL):
    config = {
        'bytes': lambda: Bytes.Config(special=special),
        'byte_level': lambda: HuggingFace.Config(path=str(tokenizer_files / 'bytes'), special=special),
        'metaspace': lambda: HuggingFace.Config(path=str(tokenizer_files / 'metaspace.json'), special=special),
        'sentencepiece': lambda: SentencePiece.Config(path=str(tokenizer_files / 'words.model'), special=special),
    }[kind]()
    return config.build()


every = pytest.mark.parametrize('kind', KINDS)


@every
def test_round_trip(kind, tokenizer_files):
    tokenizer = build(kind, tokenizer_files)
    assert tokenizer.decode(tokenizer.encode(TEXT, special=False)) == TEXT
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode('') == [] and tokenizer.decode([]) == ''
    assert all(0 <= i < tokenizer.size for i in tokenizer.encode(TEXT))


@every
def test_users_cannot_write_special_tokens(kind, tokenizer_files):
    tokenizer = build(kind, tokenizer_files)
    text = 'a <image> and <box> and </s>'
    special = {tokenizer.id(name) for name in SPECIAL}
    assert special <= set(tokenizer.encode(text))
    assert not special & set(tokenizer.encode(text, special=False))
    assert tokenizer.decode(tokenizer.encode(text, special=False)) == text


@every
def test_growing(kind, tokenizer_files):
    small, large = build(kind, tokenizer_files, ()), build(kind, tokenizer_files, (*SPECIAL, '<new>', '<image>'))
    known = sum(name in small.special or small._find(name) is not None for name in SPECIAL)
    assert large.size == small.size + 4 - known
    assert large.id('<new>') == large.size - 1
    assert large.encode('<new>') == [large.size - 1]
    assert large.encode('the cat', special=False) == small.encode('the cat', special=False)


@every
def test_missing_token_says_the_way_out(kind, tokenizer_files):
    tokenizer = build(kind, tokenizer_files)
    with pytest.raises(ValueError, match=r"has no special token '<nope>'; add special=\('<nope>',\) to its Config"):
        tokenizer.id('<nope>')
    with pytest.raises(ValueError, match=tokenizer.name.split('(')[0]):
        tokenizer.id('<nope>')


@every
def test_continuations_get_no_space(kind, tokenizer_files):
    tokenizer = build(kind, tokenizer_files)
    start, rest = tokenizer.encode('the', special=False), tokenizer.encode(' cat sat', special=False, first=False)
    assert tokenizer.decode(start + rest) == 'the cat sat'
    glued = start + tokenizer.encode('cat', special=False, first=False)
    assert tokenizer.decode(glued) == 'thecat'


@every
def test_spelling_is_what_tokens_write(kind, tokenizer_files):
    tokenizer = build(kind, tokenizer_files)
    ids = tokenizer.encode('the<image> cat é\n<box>', first=False)
    assert len(tokenizer.spelling) == tokenizer.size
    written = b''.join(tokenizer.spelling[i] for i in ids).decode()
    assert written.lstrip(' ') == 'the<image> cat é\n<box>' or tokenizer.prefix_every


def test_names_can_be_left_out(tokenizer_files):
    tokenizer = Bytes.Config(special=SPECIAL).build()
    assert tokenizer.decode(tokenizer.encode('<image>a</s>'), special=False) == 'a'


def test_space_after_special_tokens_is_a_habit_of_some_files(tokenizer_files):
    every = SentencePiece.Config(path=str(tokenizer_files / 'words.model'), special=SPECIAL, prefix_every=True).build()
    never = SentencePiece.Config(path=str(tokenizer_files / 'words.model'), special=SPECIAL).build()
    assert len(every.encode('<image>\n')) == len(never.encode('<image>\n')) + 1
    assert build('metaspace', tokenizer_files).prefix_every and not build('byte_level', tokenizer_files).prefix_every


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
    assert specials_in('<s>[INST] words [/INST] [CLS]') == ('<s>', '[CLS]')
