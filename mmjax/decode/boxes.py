# SPDX-License-Identifier: Apache-2.0
"""Tables of one valid box in a dialect, x0 < x1 and y0 < y1 included, which a regular expression cannot say.

A table that remembers x0 until x1 has been written has some ten thousand states; one that remembers y0 too would have
millions. So each axis has its own table, both read every token, and a token must please both:

    [ 5 0 , 2 0 , ...          table of x: what follows must exceed 50, any number is fine for y
                               table of y: any number is fine for x, the last must exceed 20

Tables are built from the back, as graphs whose equal parts are stored once.
"""

import functools
from collections.abc import Sequence

import numpy as np

from mmjax.data.coordinates import UNIT, Codec, Size
from mmjax.data.tokenizer import Tokenizer
from mmjax.decode.automaton import TokenTable, exactly
from mmjax.decode.regex import Dfa

Node = int  # the number of a node; equal nodes have equal numbers
Part = str | tuple[str, int, str]  # of a box: a literal, or (before, index of the number, after)


class _Graph:
    """Nodes of what may follow: whether the text may end there, and the node behind each symbol."""

    def __init__(self):
        self.nodes: list[tuple[bool, dict[int, Node]]] = []
        self.known: dict[tuple, Node] = {}
        self.appended: dict[tuple[Node, Node], Node] = {}
        self.end = self.node(True, {})

    def node(self, ends: bool, follow: dict[int, Node]) -> Node:
        """Returns the node, made if there is none like it yet."""
        key = (ends, frozenset(follow.items()))
        if key not in self.known:
            self.known[key] = len(self.nodes)
            self.nodes.append((ends, follow))
        return self.known[key]

    def fan(self, words: Sequence[tuple[Sequence[int], Node]]) -> Node:
        """Returns the node of all these words, each followed by what can be written from its node."""
        here, tails = None, {}
        for word, then in words:
            if word:
                tails.setdefault(word[0], []).append((word[1:], then))
            else:
                here = then if here is None else self.merge(here, then)
        longer = self.node(False, {symbol: self.fan(rest) for symbol, rest in tails.items()})
        return longer if here is None else self.merge(longer, here)

    def merge(self, a: Node, b: Node) -> Node:
        """Returns the node of what can be written from either."""
        if a == b:
            return a
        (ends_a, first), (ends_b, second) = self.nodes[a], self.nodes[b]
        both = {s: self.merge(first[s], second[s]) for s in first.keys() & second.keys()}
        return self.node(ends_a or ends_b, first | second | both)

    def append(self, a: Node, then: Node) -> Node:
        """Returns the node of what can be written from `a`, followed by what can be written from `then`."""
        if (a, then) not in self.appended:
            ends, follow = self.nodes[a]
            longer = self.node(False, {symbol: self.append(node, then) for symbol, node in follow.items()})
            self.appended[a, then] = self.merge(longer, then) if ends else longer
        return self.appended[a, then]

    @functools.cache  # noqa: B019
    def longest(self, node: Node) -> int:
        """Returns how many symbols the longest text from a node has."""
        return max((1 + self.longest(following) for following in self.nodes[node][1].values()), default=0)

    def table(self, start: Node, symbols: int) -> Dfa:
        """Returns the table of what can be written from a node."""
        number, order = {start: 0}, [start]
        for node in order:
            for following in self.nodes[node][1].values():
                if following not in number:
                    number[following] = len(order)
                    order.append(following)
        move = np.full((len(order), symbols), -1, np.int32)
        for row, node in enumerate(order):
            follow = self.nodes[node][1]
            move[row, list(follow)] = [number[following] for following in follow.values()]
        return Dfa(move, np.array([self.nodes[node][0] for node in order]))


class _Symbols(dict):
    """Numbers what boxes are written with: the special tokens, and the bytes of all other text."""

    def read(self, text: str) -> list[int]:
        """Returns the symbols of a text of the dialect; new ones are numbered as they come up."""
        units = UNIT.findall(text)
        keys = [key for unit in units for key in ([unit] if len(unit) > 1 else unit.encode())]
        return [self.setdefault(key, len(self)) for key in keys]


class _Axis:
    """Builds the node of boxes whose numbers `near` and `near` + half are in order; the others may be any numbers."""

    def __init__(self, graph: _Graph, symbols: _Symbols, codec: Codec, size: Size | None):
        self.graph, self.symbols, self.codec = graph, symbols, codec
        self.parts = [part for part in (codec.opening, *codec.parts(), codec.closing) if part]
        self.half = sum(not isinstance(part, str) for part in self.parts) // 2
        # Points beyond the picture are none of its boxes': of the two axes, x has the even numbers.
        steps = [round(1 / step) for step in codec.bin_size(size)]
        self.limits = steps if self.half == 2 else [steps[0] * steps[1]]

    def start(self, near: int) -> Node:
        """Returns the node from which such a box can be written from opening to closing."""
        place = next(k for k, part in enumerate(self.parts) if not isinstance(part, str) and part[1] == near)
        far = self._far(near)
        heads = [
            (word, self._row(self.parts[place + 1 :], near, far[n])) for n, word in self._words(self.parts[place], {})
        ]
        return self._row(self.parts[:place], near, None, self.graph.fan(heads))

    def _row(self, parts: Sequence[Part], near: int, far: Node | None, then: Node | None = None) -> Node:
        """Returns the node of parts one after the other, the far number being written from `far`."""
        then = self.graph.end if then is None else then
        for part in reversed(parts):
            checked = not isinstance(part, str) and part[1] == near + self.half
            then = self.graph.append(far if checked else self._any(part), then)
        return then

    @functools.cache  # noqa: B019
    def _any(self, part: Part) -> Node:
        """Returns the node of a literal, or of any number that its place can hold."""
        if isinstance(part, str):
            return self.graph.fan([(self.symbols.read(part), self.graph.end)])
        known = {part[1] - self.half: 0} if part[1] >= self.half else {}
        return self.graph.fan([(word, self.graph.end) for _, word in self._words(part, known)])

    def _words(self, part: Part, known: dict[int, int]) -> list[tuple[int, list[int]]]:
        """Returns (number, its symbols) of all numbers that the place can hold."""
        before, index, after = part
        most = self.limits[index % self.half] - (index < self.half)
        numbers = [n for n in self.codec.choices(index, known) if n <= most]
        return [(n, self.symbols.read(before + self.codec.spell(n) + after)) for n in numbers]

    def _far(self, near: int) -> dict[int, Node]:
        """Returns, for each near number, the node of the far numbers that fit it."""
        part = next(part for part in self.parts if not isinstance(part, str) and part[1] == near + self.half)
        words, found, last, node = dict(self._words(part, {near: 0})), {}, set(), self.graph.fan([])
        most = self.limits[near % self.half] - 1
        for number in reversed([n for n in self.codec.choices(near, {}) if n <= most]):
            fit = words.keys() & self.codec.choices(near + self.half, {near: number})
            # As a rule one number more than for the next near number: only what is new is added.
            base, more = (node, fit - last) if last <= fit else (self.graph.fan([]), fit)
            node = self.graph.merge(base, self.graph.fan([(words[n], self.graph.end) for n in more]))
            found[number], last = node, fit
        return found


def one_box(
    codec: Codec, tokenizer: Tokenizer, size: Size | None = None, lead: str = ''
) -> tuple[tuple[TokenTable, ...], int]:
    """Returns (the tables of answers that are one valid box of a dialect, how many tokens the longest may need).

    `size` is that of the fitted picture; `lead` may stand before the box, e.g. the space that opens a turn. Each table
    knows how many tokens it needs at least, not what both need together: leave room for the longest.
    """
    symbols = _Symbols()
    graph = _Graph()
    axis = _Axis(graph, symbols, codec, size)
    led = graph.fan([(symbols.read(lead), graph.end), ([], graph.end)])
    starts = [graph.append(led, axis.start(near)) for near in range(axis.half)]
    texts = []
    for index, text in enumerate(tokenizer.spelling):
        keys = [text.decode()] if index in tokenizer.special_ids else text
        texts.append([symbols[key] for key in keys] if keys and all(key in symbols for key in keys) else None)
    tables = tuple(exactly(graph.table(start, len(symbols)), texts) for start in starts)
    return tables, max(map(graph.longest, starts))
