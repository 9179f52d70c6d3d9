# SPDX-License-Identifier: Apache-2.0
"""What tests of the data share: tiny tokenizer files, made on the fly."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

WORDS = ['A cat sat on the mat.', 'the cat, the mat', 'USER: where is the cat? ASSISTANT: here', '[0.123,0.5]'] * 8


@pytest.fixture(scope='session')
def tokenizer_files(tmp_path_factory):
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
