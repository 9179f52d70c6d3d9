# SPDX-License-Identifier: Apache-2.0
"""Text and pictures of Markdown in the order in which they stand; the text stays Markdown, as it was written.

markdown-it finds what is a picture (not what is in a code block or escaped); its places in the source are kept, so that
everything else is copied from there character by character.
"""

import bisect
import dataclasses
import functools
import re
from collections.abc import Callable

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, html_inline, image, link
from markdown_it.token import Token

from mmjax.data.sources.html_pages import TAGS, read_html
from mmjax.data.sources.parts import CUT, Part, Picture, joined

_FRONT_MATTER = re.compile(r'\A(---|\+\+\+)[ \t]*\n.*?^(\1|\.\.\.)[ \t]*(\n|\Z)', re.DOTALL | re.MULTILINE)
_TAG = re.compile(r'</?([A-Za-z][\w-]*)')


@dataclasses.dataclass(frozen=True)
class _Edit:
    """Parts that stand for source[start:end]."""

    start: int
    end: int
    parts: tuple[Part, ...]


def read_markdown(source: str) -> list[Part]:
    """Returns texts and pictures in order, without front matter, HTML comments and tags, and links round pictures."""
    source = source.replace('\r\n', '\n').replace('\r', '\n').replace(CUT, '\ufffd')
    source = _FRONT_MATTER.sub('', source, count=1)
    found: list[Part] = []
    done = 0
    for edit in sorted(_edits(source), key=lambda edit: edit.start):
        if edit.start < done:
            continue  # inside something that was replaced as a whole
        found += [source[done : edit.start], *(edit.parts or [CUT])]
        done = edit.end
    return joined([*found, source[done:]])


def _edits(source: str) -> list[_Edit]:
    """Returns what is to be replaced, in no order."""
    tokens = _parser().parse(source)
    lines = source.split('\n')
    starts = [0]
    for line in lines:
        starts.append(min(starts[-1] + len(line) + 1, len(source)))
    edits: list[_Edit] = []
    for token in tokens:
        if token.map and token.type == 'html_block':
            parts = read_html(token.content)
            edits.append(_Edit(starts[token.map[0]], starts[token.map[1]], (*parts, '\n') if parts else ()))
        elif token.map and token.type == 'inline':
            edits += _inline_edits(token, _Places(token, lines, starts), source)
    referred = {
        e.parts[0].source for e in edits if e.parts and source[e.end - 1] == ']' and isinstance(e.parts[0], Picture)
    }
    for token in tokens:
        if token.map and token.type == 'definition' and token.meta['url'] in referred:
            edits.append(_Edit(starts[token.map[0]], starts[token.map[1]], ()))
    return edits


class _Places:
    """Where the characters of a paragraph, whose content lacks its indents and quote marks, stand in the source."""

    def __init__(self, token: Token, lines: list[str], starts: list[int]):
        self.begins: list[int] = []  # in the content, where each line begins
        self.shifts: list[int] = []  # from there to the source
        begin = 0
        for number, line in enumerate(token.content.split('\n'), token.map[0]):
            words, whole = line.strip(), lines[number] if number < len(lines) else ''
            at = max(whole.find(words), 0)
            self.begins.append(begin)
            self.shifts.append(starts[number] + at - (len(line) - len(line.lstrip())) - begin)
            begin += len(line) + 1

    def __getitem__(self, place: int) -> int:
        return place + self.shifts[bisect.bisect_right(self.begins, place) - 1]


def _inline_edits(token: Token, places: _Places, source: str) -> list[_Edit]:
    """Returns the edits of a paragraph or heading."""
    edits: list[_Edit] = []
    opened: Token | None = None
    inside: list[Part] = []
    words = ''  # what a link holds beside pictures
    for child in token.children or []:
        first, end = child.meta.get('range', (0, 0))
        if child.type == 'image':
            picture = Picture(str(child.attrs['src']), ' '.join(child.content.split()))
            edits.append(_Edit(places[first], places[end - 1] + 1, (picture,)))
            inside.append(picture)
        elif child.type == 'html_inline':
            tag = _tag_edit(child.content, places[first], places[end - 1] + 1)
            edits += tag
            inside += [part for edit in tag for part in edit.parts if isinstance(part, Picture)]
        elif child.type == 'link_open':
            opened, inside, words = child, [], ''
        elif child.type == 'link_close' and opened is not None:
            if inside and not words.strip():
                first, end = opened.meta['range']
                edits.append(_Edit(places[first], places[end - 1] + 1, tuple(inside)))
            opened = None
        elif child.type not in ('softbreak', 'hardbreak'):
            words += child.content
    return edits


def _tag_edit(tag: str, start: int, end: int) -> list[_Edit]:
    """Returns the edit of a tag or comment among words; none of what is no tag of HTML, or carries meaning."""
    named = _TAG.match(tag)
    if named is None:
        return [_Edit(start, end, ())]
    if named[1].lower() not in TAGS | {'image'} or named[1].lower() in ('sup', 'sub'):
        return []
    if named[1].lower() == 'br':
        return [_Edit(start, end, ('\n',))]
    return [_Edit(start, end, tuple(read_html(tag)) or ('',))]


@functools.cache
def _parser() -> MarkdownIt:
    """Returns CommonMark that keeps the places of pictures, links and tags, and refuses no address."""
    parser = MarkdownIt('commonmark', {'inline_definitions': True})
    parser.validateLink = lambda url: True
    for name, rule in (('image', image), ('link', link), ('html_inline', html_inline)):
        parser.inline.ruler.at(name, functools.partial(_with_range, rule))
    return parser


def _with_range(rule: Callable[[StateInline, bool], bool], state: StateInline, silent: bool) -> bool:
    """Runs a rule of markdown-it and notes on its first token which characters it took."""
    start, count = state.pos, len(state.tokens)
    matched = rule(state, silent)
    if matched and not silent:
        first = next(t for t in state.tokens[count:] if t.type in ('image', 'link_open', 'html_inline'))
        first.meta = {**first.meta, 'range': (start, state.pos)}
    return matched
