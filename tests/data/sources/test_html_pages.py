# SPDX-License-Identifier: Apache-2.0
"""HTML is read as a browser shows it: text with its paragraphs, and the pictures where they stand."""

import itertools

import hypothesis
import hypothesis.strategies as st
import pytest

from mmjax.data.sources.html_pages import read_html
from mmjax.data.sources.parts import Picture


def pic(source: str, alt: str = '') -> Picture:
    return Picture(source, alt)


@pytest.mark.parametrize(
    'text, wanted',
    [
        ('<p>one</p><p>two</p>', ['one\n\ntwo']),
        ('<h1>H</h1>text<br>line', ['H\n\ntext\nline']),
        ('a <b>b</b> c<i>d</i>', ['a b cd']),
        ('  a \n  b  ', ['a b']),
        ('<p>a</p> <img src="x.png" alt=" an  x "> <p>b</p>', ['a\n\n', pic('x.png', 'an x'), '\n\nb']),
        ('a <img src=x.png> b', ['a ', pic('x.png'), ' b']),
        ('a<img src=x.png><img src=y.png>b', ['a', pic('x.png'), pic('y.png'), 'b']),
        ('<ul><li>a<li><p>b</p><li><img src=c.png></ul>d', ['- a\n- b\n\n- ', pic('c.png'), '\n\nd']),
        ('<table><tr><td>a<td>b<tr><th>c</table>', ['a b\nc']),
        ('<pre>a\n  b\n\n\nc</pre>d', ['a\n  b\n\n\nc\n\nd']),
        ('&lt;x&gt; &amp; &eacute; &#20013;&nbsp;y', ['<x> & é 中 y']),
        ('10<sup>2</sup> T<sub>max</sub>', ['10^2 T_max']),
        # What is not shown.
        ('<head><title>t</title><style>p {}</style></head><body>a', ['a']),
        ('<script>if (a < b) "<img src=x.png>"</script>a', ['a']),
        ('a<!-- <img src=x.png> -->b', ['ab']),
        ('<svg><text>no</text></svg><noscript><img src=n.png></noscript>a', ['a']),
        ('<svg/>a', ['a']),
        # Late and other sources.
        ('<img data-src="x.png" src="data:image/gif;base64,R0">', [pic('x.png')]),
        ('<img src="x.png" data-src="y.png">', [pic('x.png')]),
        ('<img srcset="x.png 1x, y.png 2x">', [pic('x.png')]),
        ('<picture><source srcset="y.webp"><img src="x.png"></picture>', [pic('x.png')]),
        ('<img alt="nothing">a', ['a']),
        ('<figure><img src="x.png"><figcaption>cap</figcaption></figure>', [pic('x.png'), '\n\ncap']),
        ('<IMG SRC="X.png">', [pic('X.png')]),
        # Broken.
        ('<p>a</div></pre><b>b', ['a\n\nb']),
        ('a < b <', ['a < b <']),
        ('a\0b', ['a\ufffdb']),
        ('', []),
    ],
)
def test_html(text, wanted):
    parts = read_html(text)
    if parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    assert parts == wanted


@hypothesis.given(
    text=st.lists(st.sampled_from([*'<>/p- \n&"x', 'li', '<li>', '<img src=a>', '<pre>', '</pre>', '<!', '<![', '</']))
    .map(''.join)
)  # fmt: skip
@hypothesis.settings(max_examples=200, deadline=None)
def test_nothing_hangs_or_repeats(text):
    try:
        parts = read_html(text)
    except AssertionError:  # of html.parser; pages with such are refused
        return
    assert not any(isinstance(a, str) and isinstance(b, str) for a, b in itertools.pairwise(parts))
    assert '' not in parts
