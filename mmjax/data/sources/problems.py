# SPDX-License-Identifier: Apache-2.0
"""What a source dropped, and why: counts by reason, with a few examples of each."""

import json
import threading
from collections import Counter

# One lock for all, outside the objects, so that sources can be pickled.
_lock = threading.Lock()
EXAMPLES = 3


class Problems:
    """Counts by reason, e.g. 'missing image' -> 12, with the first examples of each reason.

    Reading a document counts what it lacks; reading it twice counts twice. What indexing found is there from the start.
    """

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Counts `reason`; the first few examples are kept."""
        with _lock:
            self.counts[reason] += count
            seen = self.examples.setdefault(reason, [])
            if len(seen) < EXAMPLES and example not in seen:
                seen.append(example)

    def dump(self) -> dict[str, str]:
        """Returns all of this as notes of an index, for `load`."""
        return {'problems': json.dumps([self.counts, self.examples])}

    def load(self, notes: dict[str, str]) -> None:
        """Adds what an index was made with."""
        counts, examples = json.loads(notes['problems'])
        for reason, count in counts.items():
            self.add(reason, examples[reason][0], count)
            for example in examples[reason][1:]:
                self.add(reason, example, 0)

    def lines(self) -> list[str]:
        """Returns one line a reason, the most frequent first."""
        return [
            f'{count} x {reason}: {"; ".join(self.examples[reason])}' for reason, count in self.counts.most_common()
        ]

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __repr__(self) -> str:
        return f'Problems({dict(self.counts)})'
