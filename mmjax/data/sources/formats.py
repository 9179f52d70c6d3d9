# SPDX-License-Identifier: Apache-2.0
"""The layouts of records that are known, and how one is told from the fields of a record."""

from typing import Any

from mmjax.data.sources.chat import Chat
from mmjax.data.sources.interleaved import Interleaved, Mmc4
from mmjax.data.sources.pairs import Pair
from mmjax.data.sources.pieces import Pieces

RecordFormat = Pieces | Chat | Interleaved | Mmc4 | Pair


def guess(fields: dict[str, Any]) -> RecordFormat:
    """Returns the format that these fields speak of; a picture with words where they speak of no other."""
    if 'pieces' in fields:
        return Pieces()
    if 'conversations' in fields:
        return Chat()
    if 'texts' in fields and 'images' in fields:
        return Interleaved()
    if 'text_list' in fields and 'image_info' in fields:
        return Mmc4()
    return Pair()
