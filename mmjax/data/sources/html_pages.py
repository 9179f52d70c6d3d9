# SPDX-License-Identifier: Apache-2.0
"""Text and pictures of HTML in the order in which they stand."""

import html.parser

from mmjax.data.sources.parts import CUT, Part, Picture


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What these hold is not read.
SKIPPED = _words('script style title template svg noscript iframe textarea select object audio video')
# Begin and end with an empty line.
PARAGRAPHS = _words(
    'address article aside blockquote body center details dialog div dl fieldset figcaption figure footer form h1 h2 '
    'h3 h4 h5 h6 header hr html main nav ol p pre section summary table ul'
)
# Begin and end with a new line.
LINES = _words('br dd dt li tr caption option thead tbody')
INLINE = _words(
    'a abbr b bdi bdo big cite code data del dfn em font i ins kbd label mark picture q rp rt ruby s samp small source '
    'span strike strong sub sup td th time tt u var wbr img image button input link meta head'
)
# Tags of HTML; anything else between < and > in a Markdown text may be meant as it stands, e.g. List<T>.
TAGS = SKIPPED | PARAGRAPHS | LINES | INLINE


def read_html(text: str) -> list[Part]:
    """Returns texts and pictures in order; texts keep their paragraphs, not their tags."""
    reader = _Reader()
    reader.feed(text.replace(CUT, '\ufffd'))
    reader.close()
    return reader.parts


class _Reader(html.parser.HTMLParser):
    """Collects parts; `gap` is the white space that comes before the next text or picture."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[Part] = []
        self.gap = ''
        self.skipped: list[str] = []
        self.verbatim = 0
        self.bullet = False  # the next words belong to the bullet, whatever block they are in

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens a gap before a block, or takes a picture."""
        if tag in SKIPPED:
            self.skipped.append(tag)
        if self.skipped:
            return
        self._separate(tag)
        if tag == 'li':
            self._add('- ')
            self.bullet = True
        elif tag in ('td', 'th'):
            self._widen(' ')
        elif tag in ('sup', 'sub'):
            self._add('^' if tag == 'sup' else '_')
        elif tag in ('img', 'image'):
            named = {name: value or '' for name, value in attrs}
            if source := _source(named):
                self._flush()
                self.parts.append(Picture(source, ' '.join(named.get('alt', '').split())))
        self.verbatim += tag == 'pre'

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes <tag/> as <tag>, which for svg and the like would never end."""
        if tag not in SKIPPED:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Closes what was skipped, or opens a gap behind a block."""
        if self.skipped:
            if tag in self.skipped:
                del self.skipped[self.skipped.index(tag) :]
            return
        self.bullet = False
        self.verbatim = max(0, self.verbatim - (tag == 'pre'))
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        """Takes text; outside <pre> white space counts as one space."""
        if self.skipped:
            return
        if self.verbatim:
            self._add(data)
            return
        if data[:1].isspace():
            self._widen(' ')
        if words := ' '.join(data.split()):
            self._add(words)
            if data[-1:].isspace():
                self._widen(' ')

    def _separate(self, tag: str) -> None:
        if tag in PARAGRAPHS:
            self._widen('\n\n')
        elif tag in LINES:
            self._widen('\n')

    def _widen(self, gap: str) -> None:
        if not self.bullet and (gap.count('\n') > self.gap.count('\n') or not self.gap):
            self.gap = gap

    def _add(self, text: str) -> None:
        self._flush()
        if self.parts and isinstance(self.parts[-1], str):
            self.parts[-1] += text
        else:
            self.parts.append(text)

    def _flush(self) -> None:
        """Writes the gap, but not at the beginning, nor twice."""
        gap, self.gap, self.bullet = self.gap, '', False
        if not self.parts or not gap:
            return
        last = self.parts[-1]
        if isinstance(last, Picture):
            self.parts.append(gap)
        elif gap == ' ':
            self.parts[-1] = last if last[-1:].isspace() else last + gap
        else:
            self.parts[-1] = last.rstrip(' \n') + gap


def _source(attributes: dict[str, str]) -> str:
    """Returns what an <img> shows; pages that load late keep it elsewhere and show a placeholder first."""
    source = attributes.get('src', '').strip()
    late = attributes.get('data-src', '').strip() or attributes.get('data-original', '').strip()
    if late and (not source or source.startswith('data:')):
        return late
    return source or (attributes.get('srcset', '').strip().split() or [''])[0].rstrip(',')
