# SPDX-License-Identifier: Apache-2.0
"""Markdown is copied character by character, but for its pictures, comments, tags and front matter."""

import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest
from markdown_it import MarkdownIt

from mmjax.data.sources.markdown import read_markdown
from mmjax.data.sources.parts import Picture


def pic(source: str, alt: str = '') -> Picture:
    return Picture(source, alt)


@pytest.mark.parametrize(
    'text, wanted',
    [
        # Inline, with titles, angle brackets, nested brackets, emphasis in the description.
        ('a ![b](c.png) d', ['a ', pic('c.png', 'b'), ' d']),
        ('![b](c.png "t (1)")', [pic('c.png', 'b')]),
        ("![](<c d.png> 't')", [pic('c%20d.png')]),
        ('![a [x] *y*](c_(1).png)', [pic('c_(1).png', 'a [x] *y*')]),
        ('x![a](a.png)![b](b.png)y', ['x', pic('a.png', 'a'), pic('b.png', 'b'), 'y']),
        ('![two\nlines](a.png) end', [pic('a.png', 'two lines'), ' end']),
        # References, whose definitions go with them; other definitions stay.
        ('![a][R]\n\n[r]: x.png "t"\n[s]: http://s\n', [pic('x.png', 'a'), '\n\n[s]: http://s']),
        ('![R][] and ![r]\n\n[R]: x.png', [pic('x.png', 'R'), ' and ', pic('x.png', 'r')]),
        ('![a][missing]', ['![a][missing]']),
        # Not pictures.
        ('`![a](b.png)`', ['`![a](b.png)`']),
        ('\\![a](b.png)', ['\\![a](b.png)']),
        ('```\n![a](b.png)\n\n\n\nx\n```', ['```\n![a](b.png)\n\n\n\nx\n```']),
        ('    ![a](b.png)\n\nx', ['![a](b.png)\n\nx']),
        ('[a](b.png)', ['[a](b.png)']),
        ('![a] (b.png)', ['![a] (b.png)']),
        # A code span with the same characters does not lead astray, nor does an escaped one.
        ('`![a](b.png)` ![a](b.png) z', ['`![a](b.png)` ', pic('b.png', 'a'), ' z']),
        ('\\![a](b.png) ![a](b.png)', ['\\![a](b.png) ', pic('b.png', 'a')]),
        # Where they stand in blocks.
        ('# H ![a](b.png) #\ntext', ['# H ', pic('b.png', 'a'), ' #\ntext']),
        ('H ![a](b.png)\n===\ntext', ['H ', pic('b.png', 'a'), '\n===\ntext']),
        ('> q ![a](b.png) r\n> s', ['> q ', pic('b.png', 'a'), ' r\n> s']),
        (
            '* i\n  ![a](b.png)\n\n  > * ![c](d.png) x',
            ['* i\n  ', pic('b.png', 'a'), '\n\n  > * ', pic('d.png', 'c'), ' x'],
        ),
        ('1.\ttab ![a](b.png) x', ['1.\ttab ', pic('b.png', 'a'), ' x']),
        ('| a | ![b](c.png) |\n|---|---|', ['| a | ', pic('c.png', 'b'), ' |\n|---|---|']),
        # Links round pictures go, links with words stay.
        ('[![a](b.png)](http://x) t', [pic('b.png', 'a'), ' t']),
        ('[ ![a](b.png)\n![c](d.png) ](http://x)', [pic('b.png', 'a'), pic('d.png', 'c')]),
        ('[![a](b.png) words](http://x)', ['[', pic('b.png', 'a'), ' words](http://x)']),
        ('[<img src="b.png">](http://x) t', [pic('b.png'), ' t']),
        # HTML.
        ('a <img src="b.png" alt="c  d"/> e', ['a ', pic('b.png', 'c d'), ' e']),
        ('<p align="center">\n<img src=b.png>\n<b>bold</b></p>\n\nx', [pic('b.png'), ' bold\n\nx']),
        ('press <kbd>A</kbd><br>now', ['press A\nnow']),
        ('10<sup>2</sup> List<T> a < b', ['10<sup>2</sup> List<T> a < b']),
        ('<details><summary>s</summary>\n\n![a](b.png)\n\n</details>\n\nx', ['s\n\n', pic('b.png', 'a'), '\n\nx']),
        ('<script>\n![a](b.png)\n</script>\n\nx', ['x']),
        ('<picture><source srcset="d.png"><img src="b.png"></picture>', [pic('b.png')]),
        # Comments close without a gap.
        ('a <!-- c --> b', ['a b']),
        ('a<!-- c -->b', ['ab']),
        ('a\n\n<!-- ![x](y.png)\n\n more -->\n\nb', ['a\n\nb']),
        ('* a <!-- c -->\n    * b', ['* a\n    * b']),
        ('`<!-- c -->`', ['`<!-- c -->`']),
        # Front matter.
        ('---\ntitle: x\n---\na', ['a']),
        ('+++\nt = 1\n+++\n\na', ['a']),
        ('---\n\na\n\n---\nb', ['b']),
        ('a\n\n---\n\nb', ['a\n\n---\n\nb']),
        ('---\nno end\n\na', ['---\nno end\n\na']),
        # Odds.
        ('', []),
        (' \n\n', []),
        ('a\r\nb ![x](y.png)\r\n', ['a\nb ', pic('y.png', 'x')]),
        ('a\0b', ['a\ufffdb']),
        ('![](javascript:x.png) ![](data:image/svg+xml,x)', [pic('javascript:x.png'), pic('data:image/svg+xml,x')]),
    ],
)
def test_markdown(text, wanted):
    assert read_markdown(text) == wanted


signs = st.sampled_from('![]()<>`*_# \n\t\\"\'-|:&;ab1.>中=~+')
pieces = st.sampled_from(
    ['![a](b.png)', '[r]: c.png\n', '![r]', '```\n', '<!-- x -->', '<img src=d.png>', '* ', '> ', '1. ', '<b>']
)


def plain_pictures(tokens) -> list[str]:
    found = []
    for token in tokens:
        if token.type == 'image':
            found.append(token.attrs['src'])
        elif token.type == 'inline':
            found += plain_pictures(token.children)
    return found


PLAIN = MarkdownIt('commonmark')
PLAIN.validateLink = lambda url: True


@hypothesis.given(text=st.lists(signs | pieces, max_size=40).map(''.join))
@hypothesis.settings(max_examples=400, deadline=None)
def test_pictures_are_those_that_markdown_it_sees_and_nothing_is_lost(text):
    parts = read_markdown(text)
    assert all(isinstance(part, Picture) or (part.strip() and '\0' not in part) for part in parts)
    if '<' in text or text.startswith(('---', '+++')):
        return
    assert [part.source for part in parts if isinstance(part, Picture)] == plain_pictures(PLAIN.parse(text))
    if '![' not in text:
        assert ''.join(parts) == text.strip()


def test_real_pages_are_copied_in_full(shared):
    """What is no picture, tag or comment of a real page is in the text, in order."""
    for path in pathlib.Path(shared / 'data/interleaved/raw').rglob('*.md'):
        text = path.read_text().replace('\r\n', '\n')
        place = 0
        for part in read_markdown(text):
            if isinstance(part, Picture):
                place = text.index('](' if '](' in text[place:] else '<img', place)
            elif '<' not in part and '[' not in part:
                place = text.index(part.strip(), place) + len(part.strip())
