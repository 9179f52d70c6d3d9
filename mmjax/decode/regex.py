# SPDX-License-Identifier: Apache-2.0
"""Regular expressions as tables over bytes: what constrained decoding and stop strings are compiled from.

The subset: literals, escapes (`\\d \\w \\s \\n \\t \\xNN` and escaped punctuation), `.`, classes `[a-c]` and `[^a-c]`,
groups, `|`, `* + ? {m} {m,} {m,n}`. Everything is anchored at both ends; text is UTF-8. An expression is a nested
tuple, and a state of the table is the expression of what may still follow (Brzozowski's derivatives): that needs no
intermediate automaton and gives few states.
"""

import functools
from typing import NamedTuple

import numpy as np

EMPTY = ('empty',)  # the empty string
NOTHING = ('set', 0)  # no string at all
ANY_BYTE = ('set', (1 << 256) - 1)
ANYTHING = ('star', ANY_BYTE)

DIGITS = range(ord('0'), ord('9') + 1)
LETTERS = [*range(ord('a'), ord('z') + 1), *range(ord('A'), ord('Z') + 1)]
ESCAPED_SETS = {'d': [*DIGITS], 'w': [*DIGITS, *LETTERS, ord('_')], 's': [ord(c) for c in ' \t\n\r\f\v']}
ESCAPED_BYTES = {'n': 10, 't': 9, 'r': 13, 'f': 12, 'v': 11}


class Dfa(NamedTuple):
    """A table over bytes: state 0 is the start, -1 means that nothing can follow."""

    move: np.ndarray  # [states, 256] int32, next state or -1
    ends: np.ndarray  # [states] bool, whether the text so far is a whole match


def byte_set(values) -> tuple:
    """Returns the expression of one byte out of `values`."""
    mask = 0
    for value in values:
        mask |= 1 << value
    return ('set', mask)


def concat(first: tuple, then: tuple) -> tuple:
    """Returns `first` followed by `then`, nested to the right."""
    if NOTHING in (first, then):
        return NOTHING
    if first == EMPTY:
        return then
    if then == EMPTY:
        return first
    if first[0] == 'concat':
        return ('concat', first[1], concat(first[2], then))
    return ('concat', first, then)


def either(*options: tuple) -> tuple:
    """Returns the union of `options`, as a set, so that equal unions are equal tuples."""
    flat, mask = set(), 0
    for option in options:
        for part in option[1] if option[0] == 'either' else (option,):
            if part[0] == 'set':
                mask |= part[1]
            else:
                flat.add(part)
    if ANYTHING in flat:
        return ANYTHING
    if mask:
        flat.add(('set', mask))
    if len(flat) < 2:
        return flat.pop() if flat else NOTHING
    return ('either', frozenset(flat))


def literal(text: str) -> tuple:
    """Returns the expression of `text` itself."""
    return functools.reduce(lambda then, byte: concat(byte_set([byte]), then), reversed(text.encode()), EMPTY)


def repeat(part: tuple, least: int, most: int | None) -> tuple:
    """Returns `part` repeated `least` to `most` times (None: without limit)."""
    if most is None:
        tail = ('star', part)
    else:
        tail = EMPTY
        for _ in range(most - least):
            tail = either(EMPTY, concat(part, tail))
    for _ in range(least):
        tail = concat(part, tail)
    return tail


class _Parser:
    """Reads an expression from left to right; `place` is the next character."""

    def __init__(self, pattern: str):
        self.pattern, self.place = pattern, 0

    def fail(self, what: str):
        raise ValueError(
            f'pattern {self.pattern!r}: {what} at character {self.place}; '
            'known are literals, classes, groups, | and the repetitions * + ? {m,n}'
        )

    def peek(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def take(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.place)
        self.place += len(text) * found
        return found

    def alternatives(self) -> tuple:
        options = [self.sequence()]
        while self.take('|'):
            options.append(self.sequence())
        return either(*options)

    def sequence(self) -> tuple:
        parts = []
        while self.peek() and self.peek() not in '|)':
            parts.append(self.repeated())
        return functools.reduce(lambda then, part: concat(part, then), reversed(parts), EMPTY)

    def repeated(self) -> tuple:
        part = self.atom()
        while self.peek() and self.peek() in '*+?{':
            if self.take('*'):
                part = repeat(part, 0, None)
            elif self.take('+'):
                part = repeat(part, 1, None)
            elif self.take('?'):
                part = repeat(part, 0, 1)
            else:
                part = repeat(part, *self.bounds())
            self.take('?')  # lazy and greedy repetitions match the same texts
        return part

    def bounds(self) -> tuple[int, int | None]:
        close = self.pattern.find('}', self.place)
        least, comma, most = self.pattern[self.place + 1 : close].partition(',')
        if close < 0 or not least.isdigit() or (most and not most.isdigit()):
            self.fail('not a repetition {m}, {m,} or {m,n}')
        self.place = close + 1
        if not comma:
            return int(least), int(least)
        return int(least), int(most) if most else None

    def atom(self) -> tuple:
        if self.take('('):
            if self.take('?') and not self.take(':'):
                if not self.take('P<') or (end := self.pattern.find('>', self.place)) < 0:
                    self.fail('a group that looks around or changes flags')
                self.place = end + 1
            inner = self.alternatives()
            if not self.take(')'):
                self.fail('a group without )')
            return inner
        if self.take('['):
            return self.set_of_bytes()
        if self.take('.'):
            return ('set', ANY_BYTE[1] & ~(1 << ord('\n')))
        if self.peek() in '^$*+?{':
            self.fail(f'{self.peek()!r}')
        if self.peek() == '\\':
            return byte_set(self.escaped())
        self.place += 1
        return literal(self.pattern[self.place - 1])

    def escaped(self) -> list[int]:
        self.place += 2
        name = self.pattern[self.place - 1 : self.place]
        if name in ESCAPED_SETS:
            return ESCAPED_SETS[name]
        if name in ESCAPED_BYTES:
            return [ESCAPED_BYTES[name]]
        if name == 'x':
            self.place += 2
            return [int(self.pattern[self.place - 2 : self.place], 16)]
        if not name or name.isalnum() or ord(name) > 127:
            self.fail(f'escape \\{name}')
        return [ord(name)]

    def member(self) -> list[int]:
        if self.peek() == '\\':
            return self.escaped()
        if not self.peek() or ord(self.peek()) > 127:
            self.fail('a class without ] or with a character that is not ASCII')
        self.place += 1
        return [ord(self.pattern[self.place - 1])]

    def set_of_bytes(self) -> tuple:
        negated, values = self.take('^'), []
        while not self.take(']'):
            members = self.member()
            if self.peek() == '-' and self.pattern[self.place + 1 : self.place + 2] not in ('', ']'):
                self.place += 1
                members = range(members[0], self.member()[0] + 1)
            values += members
        chosen = byte_set(values)
        return ('set', ANY_BYTE[1] & ~chosen[1]) if negated else chosen


def parse(pattern: str) -> tuple:
    """Returns the expression of `pattern`; raises ValueError, naming the place, for what the subset lacks."""
    parser = _Parser(pattern)
    expression = parser.alternatives()
    if parser.place < len(pattern):
        parser.fail('a ) without (')
    return expression


def _nullable(expression: tuple) -> bool:
    match expression[0]:
        case 'empty' | 'star':
            return True
        case 'set':
            return False
        case 'concat':
            return _nullable(expression[1]) and _nullable(expression[2])
    return any(_nullable(part) for part in expression[1])


def _after(expression: tuple, byte: int) -> tuple:
    """Returns what may follow `byte` where `expression` was expected."""
    match expression[0]:
        case 'empty':
            return NOTHING
        case 'set':
            return EMPTY if expression[1] >> byte & 1 else NOTHING
        case 'star':
            return concat(_after(expression[1], byte), expression)
        case 'concat':
            then = concat(_after(expression[1], byte), expression[2])
            return either(then, _after(expression[2], byte)) if _nullable(expression[1]) else then
    return either(*(_after(part, byte) for part in expression[1]))


def _masks(expression: tuple) -> set[int]:
    match expression[0]:
        case 'set':
            return {expression[1]}
        case 'empty':
            return set()
        case 'either':
            return set().union(*map(_masks, expression[1]))
    return set().union(*map(_masks, expression[1:]))


def compile_dfa(expression: tuple) -> Dfa:
    """Returns the table of an expression. States from which no end can be reached do not exist."""
    # Bytes that no set of the expression tells apart lead to the same states: one derivative for each such class.
    masks = sorted(_masks(expression))
    classes: dict[tuple, list[int]] = {}
    for byte in range(256):
        classes.setdefault(tuple(mask >> byte & 1 for mask in masks), []).append(byte)
    number, rows, queue = {expression: 0}, [], [expression]
    for state in queue:
        row = np.full(256, -1, np.int32)
        for members in classes.values():
            following = _after(state, members[0])
            if following == NOTHING:
                continue
            if following not in number:
                number[following] = len(queue)
                queue.append(following)
            row[members] = number[following]
        rows.append(row)
    return Dfa(np.stack(rows), np.array([_nullable(state) for state in queue]))
