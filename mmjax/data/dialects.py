# SPDX-License-Identifier: Apache-2.0
"""Dialects: how published systems write boxes, as settings of the codecs of `coordinates.py`.

Each function returns a new codec, so that an override of one config changes no other.

    shikra       [0.123,0.456,0.789,0.987]                        ; between boxes of one object
    llava        [0.12, 0.34, 0.56, 0.78]
    ferret       [123, 456, 789, 987]                             0-1000
    qwen_vl      <ref>words</ref><box>(123,456),(789,987)</box>   0-999, read back as n / 999
    cogvlm       [[123,456,789,987]]                              000-999 thousandths, so that 1.0 is read back as 0.999
    kosmos_2     <phrase>words</phrase><object><patch_index_0044><patch_index_0863></object>
    kosmos_2_5   <bbox><x_12><y_34><x_56><y_78></bbox>words       pixels of the resized picture
    florence_2   words<loc_123><loc_456><loc_789><loc_987>        1000 bins, read back as their middles
    paligemma    <loc0123><loc0456><loc0789><loc0987> words       y first, 0-1023
    fuyu         <box>123, 456, 789, 987</box>                    y first, halved pixels of the fitted picture
"""

from mmjax.data.coordinates import Cells, Numbers


def shikra() -> Numbers:
    """Decimals of three places; the picture is padded to a square."""
    return Numbers(decimals=3, box='{x0},{y0},{x1},{y1}', opening='[', closing=']', join=';')


def llava() -> Numbers:
    """Decimals of two places; the picture is padded to a square."""
    return Numbers(decimals=2, steps=100, last=100, box='[{x0}, {y0}, {x1}, {y1}]', join=', ')


def ferret() -> Numbers:
    """Whole thousandths."""
    return Numbers(box='[{x0}, {y0}, {x1}, {y1}]', join=', ')


def qwen_vl() -> Numbers:
    """Two points of numbers up to 999."""
    return Numbers(steps=999, last=999, box='<box>({x0},{y0}),({x1},{y1})</box>', region='<ref>{words}</ref>{boxes}')


def cogvlm() -> Numbers:
    """Thousandths of three digits."""
    return Numbers(last=999, digits=3, box='{x0},{y0},{x1},{y1}', opening='[[', closing=']]', join=';')


def kosmos_2() -> Cells:
    """Two of 32 x 32 cells."""
    return Cells()


def kosmos_2_5() -> Numbers:
    """Pixels, one special token each."""
    box = '<bbox><x_{x0}><y_{y0}><x_{x1}><y_{y1}></bbox>'
    return Numbers(pixels=1, last=4095, box=box, region='{boxes}{words}')


def florence_2() -> Numbers:
    """Bins, one special token each."""
    return Numbers(bins=True, last=999, box='<loc_{x0}><loc_{y0}><loc_{x1}><loc_{y1}>')


def paligemma() -> Numbers:
    """Special tokens, y before x, boxes before their words."""
    box = '<loc{y0}><loc{x0}><loc{y1}><loc{x1}>'
    return Numbers(steps=1023, last=1023, digits=4, box=box, join=' ; ', region='{boxes} {words}')


def fuyu() -> Numbers:
    """Pairs of pixels, y before x, as digits; pictures of at most 4,094 pixels."""
    return Numbers(pixels=2, last=2047, box='<box>{y0}, {x0}, {y1}, {x1}</box>')
