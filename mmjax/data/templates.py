# SPDX-License-Identifier: Apache-2.0
"""Prompt formats as data: what stands around pictures, words and turns of a chat, for each published format.

Names in angle brackets or bars are special tokens (`tokenizer.SPECIAL`); all else is ordinary text. A document of two
turns, whose pieces carry roles, is written

    start system | user.before  picture, words  user.after | assistant.before  lead, words, after | end
    read  read     read         read            read         read              learnt               learnt

Where the model has an encoder, what it reads ends before the last learnt words:

    ... words input_end | output_start words end

and one without roles as its pieces stand, between start and end. An end that the last turn wrote is not written again.
Each function returns new objects, so that an override of one config changes no other.
"""

import dataclasses

from mmjax.data.tokenizer import specials_in


@dataclasses.dataclass(kw_only=True)
class ImageFormat:
    """What stands around a picture, and how its tokens see each other.

    before, then a placeholder for each media token with row_end behind each row of them, then after. A picture that
    text looks at through cross-attention is a single placeholder. `{n}` in `before` is the picture's number from 1.
    """

    placeholder: str = '<image>'
    before: str = ''
    after: str = ''
    row_end: str = ''
    two_way: bool = False  # the tokens of one picture see each other
    one_position: bool = False  # and have one position together; what the model puts at their ends has its own

    def special_tokens(self) -> tuple[str, ...]:
        """Returns the special tokens that this format writes."""
        return specials_in(self.placeholder, self.before, self.row_end, self.after)


@dataclasses.dataclass(kw_only=True)
class Turn:
    """What stands around the words of one role; `weight` multiplies the loss weights of its pieces."""

    before: str = ''  # read only
    lead: str = ''  # written with the words, and learnt with them
    after: str = ''  # learnt with the words
    weight: float = 0.0


@dataclasses.dataclass(kw_only=True)
class TextFormat:
    """What stands at the ends of a document, behind a picture's words, and around turns."""

    start: str = ''
    end: str = ''
    chunk_end: str = ''  # closes a picture and the words that follow it
    input_end: str = ''  # closes what an encoder reads, in front of the answer that its decoder writes
    output_start: str = ''  # opens that answer: read only, so that there is something to predict its first word from
    system: str = ''  # opens a chat that has no system turn of its own
    system_turn: Turn = dataclasses.field(default_factory=Turn)
    user: Turn = dataclasses.field(default_factory=Turn)
    assistant: Turn = dataclasses.field(default_factory=lambda: Turn(weight=1.0))
    modes: dict[str, Turn] = dataclasses.field(default_factory=dict)  # further roles, by whose signs one is asked for

    @property
    def turns(self) -> dict[str, Turn]:
        """The strings of every role."""
        return {'user': self.user, 'assistant': self.assistant, 'system': self.system_turn, **self.modes}

    def turn(self, role: str) -> Turn | None:
        """Returns the strings of a role, None for one that does not exist."""
        return self.turns.get(role)

    def special_tokens(self) -> tuple[str, ...]:
        """Returns the special tokens that this format writes."""
        turns = [text for t in self.turns.values() for text in (t.before, t.lead, t.after)]
        seam = (self.input_end, self.output_start)
        return specials_in(self.start, self.system, *turns, self.chunk_end, *seam, self.end)


@dataclasses.dataclass(kw_only=True)
class Format:
    """A prompt format: give its two parts to Layout.Config."""

    image: ImageFormat = dataclasses.field(default_factory=ImageFormat)
    text: TextFormat = dataclasses.field(default_factory=TextFormat)

    def special_tokens(self) -> tuple[str, ...]:
        """Returns the special tokens that a tokenizer must have."""
        return tuple(dict.fromkeys(self.image.special_tokens() + self.text.special_tokens()))


def plain() -> Format:
    """[picture] words </s>: nothing but an end."""
    return Format(text=TextFormat(end='</s>'))


def flamingo(end: str = '</s>') -> Format:
    """<image>words<|endofchunk|><image>words<|endofchunk|></s>: each picture and its words are a chunk."""
    return Format(text=TextFormat(chunk_end='<|endofchunk|>', end=end))


def kosmos() -> Format:
    """<s><image> [picture] </image>words</s>, as KOSMOS-1 and 2 write documents."""
    # The places of the picture hold the id of <image> once more: their embedding is never looked at.
    return Format(image=ImageFormat(before='<image>', after='</image>'), text=TextFormat(start='<s>', end='</s>'))


def kosmos25() -> Format:
    """<s><image> [picture] </image><ocr>words</s>, or with <md> for markdown: two ways to read a page."""
    mode = lambda sign: Turn(before=sign, weight=1.0)
    text = TextFormat(start='<s>', end='</s>', modes={'ocr': mode('<ocr>'), 'md': mode('<md>')})
    return Format(image=ImageFormat(placeholder='<s>', before='<image>', after='</image>'), text=text)


def vicuna() -> Format:
    """<s>system USER: [picture]\\nwords ASSISTANT: words</s>USER: ..., as LLaVA-1.5 trains."""
    system = (
        'A chat between a curious user and an artificial intelligence assistant. '
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    )
    return Format(
        text=TextFormat(
            start='<s>',
            system=system,
            system_turn=Turn(after=' '),
            user=Turn(before='USER: ', after=' '),
            assistant=Turn(before='ASSISTANT:', lead=' ', after='</s>', weight=1.0),
            end='</s>',
        )
    )


def llama2() -> Format:
    """<s>[INST] words [/INST] words </s><s>[INST] ..., as Llama 2's chats are trained; words of a system stand bare."""
    return Format(
        text=TextFormat(
            user=Turn(before='<s>[INST] ', after=' [/INST]'),
            assistant=Turn(lead=' ', after=' </s>', weight=1.0),
            end='</s>',
        )
    )


def pandagpt() -> Format:
    """<s>### Human: <Img>[picture]</Img> words\n### Assistant: words\n###, as PandaGPT writes."""
    return Format(
        image=ImageFormat(before='<Img>', after='</Img>'),
        text=TextFormat(
            start='<s>',
            user=Turn(before='### Human: ', after='\n'),
            assistant=Turn(before='### Assistant:', lead=' ', after='\n###', weight=1.0),
        ),
    )


def blip() -> Format:
    """[DEC]words[SEP]: the sign that begins the words is also the place of the picture, which all of them look at."""
    return Format(image=ImageFormat(placeholder='[DEC]'), text=TextFormat(end='[SEP]'))


def blip2(begin: str = '</s>', end: str = '\n') -> Format:
    """[picture] </s>words\\n, as BLIP-2 before OPT writes; before Vicuna the signs are <s> and </s>."""
    return Format(image=ImageFormat(after=begin), text=TextFormat(end=end))


def x_instructblip() -> Format:
    """<s>USER: image: [picture] words\\nASSISTANT: words</s>: a cue says of what kind the medium behind it is."""
    text = TextFormat(
        start='<s>',
        user=Turn(before='USER: ', after='\n'),
        assistant=Turn(before='ASSISTANT:', lead=' ', after='</s>', weight=1.0),
        end='</s>',
    )
    return Format(image=ImageFormat(before='image: ', after=' '), text=text)


def t5() -> Format:
    """[picture] words</s> for the encoder, <pad>words</s> for the decoder."""
    return Format(text=TextFormat(input_end='</s>', output_start='<pad>', end='</s>'))


def bart() -> Format:
    """[picture] <s>words</s> for the encoder, </s><s>words</s> for the decoder, as Florence-2 writes.

    Its answers are trained to begin with <s>, which decoding then forces; here it is read, never learnt.
    """
    text = TextFormat(input_end='</s>', output_start='</s><s>', end='</s>')
    return Format(image=ImageFormat(after='<s>'), text=text)


def shikra() -> Format:
    """Vicuna's turns, pictures between <im_start> and <im_end>."""
    image = ImageFormat(placeholder='<im_patch>', before='<im_start>', after='<im_end>')
    return Format(image=image, text=vicuna().text)


def cogvlm(placeholder: str = '<unk>', start: str = '<s>', end: str = '</s>') -> Format:
    """<s> [picture]Question: words Answer: words</s>Question: ...; the model adds what stands around pictures."""
    text = TextFormat(
        start=start,
        user=Turn(before='Question: ', after=' '),
        assistant=Turn(before='Answer:', lead=' ', after=end, weight=1.0),
        end=end,
    )
    return Format(image=ImageFormat(placeholder=placeholder, one_position=True), text=text)


def paligemma() -> Format:
    """[picture] <bos>question\\nanswer<eos>, the beginning behind the picture."""
    text = TextFormat(user=Turn(after='\n'), assistant=Turn(after='<eos>', weight=1.0), end='<eos>')
    return Format(image=ImageFormat(after='<bos>'), text=text)


def gemma3() -> Format:
    """<bos><start_of_turn>user\\n\\n\\n<start_of_image> [picture] <end_of_image>\\n\\nwords<end_of_turn>\\n..."""
    turn = lambda role, weight: Turn(before=f'<start_of_turn>{role}\n', after='<end_of_turn>\n', weight=weight)
    image = ImageFormat(
        placeholder='<image_soft_token>', before='\n\n<start_of_image>', after='<end_of_image>\n\n', two_way=True
    )
    # There is no role of the system: what it says is a turn of the user.
    text = TextFormat(
        start='<bos>', system_turn=turn('user', 0.0), user=turn('user', 0.0), assistant=turn('model', 1.0)
    )
    return Format(image=image, text=text)


def internvl() -> Format:
    """<|im_start|>user\\n<img> [picture] </img>\\nwords<|im_end|>\\n..., as InternVL writes."""
    image = ImageFormat(placeholder='<IMG_CONTEXT>', before='<img>', after='</img>\n')
    return Format(image=image, text=chatml().text)


def qwen_native() -> Format:
    """<|im_start|>user\\n<|vision_start|> [picture] <|vision_end|>words<|im_end|>\\n..., from Qwen2-VL on."""
    image = ImageFormat(placeholder='<|image_pad|>', before='<|vision_start|>', after='<|vision_end|>')
    return Format(image=image, text=chatml().text)


def smolvlm() -> Format:
    """<|im_start|>User:<fake_token_around_image><global-img> [picture] <fake_token_around_image>words..."""
    around, end = '<fake_token_around_image>', '<end_of_utterance>'
    text = TextFormat(
        start='<|im_start|>',
        user=Turn(before='User:', after=f'{end}\n'),
        assistant=Turn(before='Assistant:', lead=' ', after=end, weight=1.0),
        end=end,
    )
    return Format(image=ImageFormat(before=f'{around}<global-img>', after=around), text=text)


def fuyu() -> Format:
    """[picture, |NEWLINE| behind each row] <s>question<0x04> answer|ENDOFTEXT|."""
    image = ImageFormat(placeholder='|SPEAKER|', row_end='|NEWLINE|', after='<s>')
    answer = Turn(before='<0x04>', lead=' ', after='|ENDOFTEXT|', weight=1.0)
    return Format(image=image, text=TextFormat(assistant=answer, end='|ENDOFTEXT|'))


def chatml(system: str = 'You are a helpful assistant.') -> Format:
    """<|im_start|>user\\nPicture 1: <img> [picture] </img>\\nwords<|im_end|>\\n..., as Qwen-VL writes."""
    turn = lambda role, weight: Turn(before=f'<|im_start|>{role}\n', after='<|im_end|>\n', weight=weight)
    return Format(
        image=ImageFormat(placeholder='<imgpad>', before='Picture {n}: <img>', after='</img>\n'),
        text=TextFormat(
            system=f'<|im_start|>system\n{system}<|im_end|>\n',
            system_turn=turn('system', 0.0),
            user=turn('user', 0.0),
            assistant=turn('assistant', 1.0),
        ),
    )
