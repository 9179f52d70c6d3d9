# SPDX-License-Identifier: Apache-2.0
"""The metrics by name: each judges one answer to a document, whose last piece says what is right."""

from collections.abc import Callable, Sequence

from mmjax.data import images
from mmjax.data.layout import Layout
from mmjax.document import Box, Document, Image, Region, Text, Video
from mmjax.evals import captions, grounding, vqa
from mmjax.evals.text import exact

# Raised when a figure would come out differently for the same answers.
VERSION = 1


def expected(document: Document) -> str:
    """Returns the words of the answer."""
    answer = document.pieces[-1]
    if not isinstance(answer, Text | Region):
        raise ValueError(f'document {document.key!r} ends with {type(answer).__name__}; an answer is Text or a Region')
    return answer.text


def words(question: Document) -> str:
    """Returns the words of a question, for people; where pictures stand is said if there are several."""
    pictures = sum(isinstance(piece, Image | Video) for piece in question.pieces)
    text = []
    for piece in question.pieces:
        if isinstance(piece, Text | Region):
            text.append(piece.text)
        elif isinstance(piece, Image | Video) and pictures > 1:
            text.append('[picture] ')
    return ''.join(text).strip()


def true_boxes(document: Document) -> list[Box]:
    """Returns the boxes of the answer, none where it has none."""
    answer = document.pieces[-1]
    return [*answer.boxes] if isinstance(answer, Region) else []


def picture(document: Document) -> Image | None:
    """Returns the picture that the answer's boxes lie on."""
    pictures = [p.frames[0] if isinstance(p, Video) else p for p in document.pieces if isinstance(p, Image | Video)]
    answer = document.pieces[-1]
    number = answer.image if isinstance(answer, Region) else -1
    return pictures[number] if pictures else None


def found_boxes(layout: Layout, document: Document, text: str) -> list[Box]:
    """Returns the boxes that an answer in the layout's dialect names, as fractions of the original picture."""
    shown = picture(document)
    if layout.config.coordinates is None or shown is None:
        return []
    size = images.size(shown)
    fitted = layout.config.coordinates.decode(text, (layout.spec.width, layout.spec.height))
    return [box for box in (layout.fit.boxes_out(box, size) for box in fitted) if box is not None]


def _exact(layout: Layout, document: Document, text: str) -> dict[str, float]:
    return {'exact': exact(text, expected(document))}


def references(document: Document) -> list[str]:
    """Returns all right answers: meta['answers'], those of several people, or the answer alone."""
    return [*(document.meta.get('answers') or [expected(document)])]


def _vqa(layout: Layout, document: Document, text: str) -> dict[str, float]:
    return {'vqa': vqa.accuracy(text, references(document))}


def _anls(layout: Layout, document: Document, text: str) -> dict[str, float]:
    return {'anls': captions.anls(text, references(document))}


def _caption(layout: Layout, document: Document, text: str) -> dict[str, float]:
    return {'rouge_l': captions.rouge_l(captions.words(text), [*map(captions.words, references(document))])}


def _captions(answers: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    found, refs = [*map(captions.words, answers)], [[*map(captions.words, some)] for some in right]
    each = captions.cider(found, refs)
    return {'cider': sum(each) / len(each), 'bleu4': captions.bleu(found, refs)[3]}


def _box_iou(layout: Layout, document: Document, text: str) -> dict[str, float]:
    true, found = true_boxes(document), found_boxes(layout, document, text)
    if not true:
        raise ValueError(f'document {document.key!r}: metric box_iou, but its answer has no boxes')
    value = grounding.mean_iou(found[: max(1, len(true))], true)
    return {'iou50': float(value >= 0.5), 'iou': value}


METRICS: dict[str, Callable[[Layout, Document, str], dict[str, float]]] = {
    'exact': _exact,
    'vqa': _vqa,
    'box_iou': _box_iou,
    'anls': _anls,
    'caption': _caption,
}
# What can only be said of all answers together, beside the means of the above.
OVER_ALL: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]] = {'caption': _captions}
