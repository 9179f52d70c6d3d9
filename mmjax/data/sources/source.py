# SPDX-License-Identifier: Apache-2.0
"""What every source is: documents by index, and a count of what could not be read."""

from typing import Any, Protocol, runtime_checkable

from mmjax.data.sources.problems import Problems
from mmjax.document import BadDocument, Document


@runtime_checkable
class Source(Protocol):
    """Documents by index; asking for one that cannot be read raises BadDocument."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Document: ...


class DrawnSource:
    """The base of sources that make their documents, each from its number and the config, which has a `count`."""

    def __init__(self, name: str, config: Any):
        self.name, self.config = name, config

    def __len__(self) -> int:
        return self.config.count

    def draw(self, index: int) -> Document:
        """Returns document `index`, 0 <= index < len."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name}: document {index} of {len(self)}')
        return self.draw(index)


class CountingSource:
    """The base of sources that read files: what they cannot read is counted in `problems`, then raised."""

    def __init__(self, name: str):
        self.name = name
        self.problems = Problems()

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> Document:
        """Returns document `index`, 0 <= index < len; raises BadDocument or OSError."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name}: document {index} of {len(self)}')
        try:
            try:
                return self.read(index)
            except OSError as error:
                raise BadDocument(f'{self.name}:{index}', 'unreadable file', str(error)) from error
        except BadDocument as error:
            self.problems.add(error.reason, f'{error.key}: {error.detail}' if error.detail else error.key)
            raise
