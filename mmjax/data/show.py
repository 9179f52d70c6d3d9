# SPDX-License-Identifier: Apache-2.0
"""Shows data as a person sees it and as the model gets it: an HTML page, and two PNGs that say the same without one.

index.html       documents with their pictures, boxes and weights; then a packed row, token by token, and its masks
documents.png    the documents
row.png          the masks of the row: what each token sees, black-and-white lines of the mask spec
"""

import html
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image as pillow

from mmjax.batch import Batch
from mmjax.data import drawing
from mmjax.data.laid import Laid
from mmjax.data.layout import Layout
from mmjax.data.pack import pack
from mmjax.data.pipeline import finite
from mmjax.data.sources.source import Source
from mmjax.document import BadDocument, Document, Image, Region, Text, Video

STYLE = """
body { font: 14px/1.5 sans-serif; margin: 2em auto; max-width: 72em; color: #111; }
.doc, .row { border: 1px solid #ccc; border-radius: 6px; padding: .8em 1em; margin: 1em 0; overflow-wrap: anywhere; }
.read { color: #888; } .region { border-bottom: 2px solid #d33; } .role { color: #06c; font-weight: bold; }
pre { white-space: pre-wrap; font: inherit; margin: 0; display: inline; } img { margin: 4px; vertical-align: middle; }
.t { font-family: monospace; font-size: 12px; padding: 1px; margin: 0 1px; border-radius: 3px; white-space: pre; }
.learnt { font-weight: bold; text-decoration: underline; } .pad { background: #eee; color: #999; }
"""


def show(source: Source, layout: Layout, folder: pathlib.Path, count: int = 8, first: int = 0) -> list[pathlib.Path]:
    """Writes the page and the PNGs of `count` documents from number `first` on; returns the files."""
    documents, refused = [], []
    # Of a source that is broken from end to end, not all is tried.
    for index in range(first, min(len(source), first + 10 * count + 100)):
        if len(documents) >= count:
            break
        try:
            documents.append(source[index])
        except BadDocument as error:
            refused.append(error)
    if not documents:
        raise ValueError(f'source {source.name}: no document from number {first} of {len(source)} on can be read')
    laid: list[Laid] = []
    for document in documents:
        try:
            laid += layout(document)
        except BadDocument as error:
            refused.append(error)
    body = [f'<h1>{html.escape(source.name)}</h1>']
    body += [f'<p class=read>left out: {html.escape(str(error))}</p>' for error in refused]
    body += [document_html(document) for document in documents]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / 'index.html', folder / 'documents.png']
    drawing.sheet(documents).save(files[1])
    if laid:
        # The row with the most documents says most about masks.
        row = max(pack(laid, layout.shape), key=len)
        ((batch, _),) = finite(row, layout, 1)
        masks = mask_pictures(batch, 0)
        files.append(folder / 'row.png')
        beside(masks).save(files[2])
        body.append(row_html(batch, 0, row, layout, masks))
    page = f'<!doctype html><meta charset=utf-8><title>{html.escape(source.name)}</title><style>{STYLE}</style>'
    files[0].write_text(page + '\n'.join(body), encoding='utf-8')
    return files


def document_html(document: Document) -> str:
    """Returns a document as a person sees it: words that are read only are grey."""
    parts, pictures, role = [], 0, None
    roles = document.meta.get('roles') or []
    for piece, speaker in zip(document.pieces, [*roles, *[None] * len(document.pieces)], strict=False):
        if speaker != role:
            role = speaker
            parts.append(f'<br><span class=role>{html.escape(str(role))}:</span> ')
        kind = 'learnt' if piece.weight > 0 else 'read'
        if isinstance(piece, Image | Video):
            frames = piece.frames if isinstance(piece, Video) else (piece,)
            boxes = drawing.boxes_of(document, pictures)
            parts += [f'<img src="{drawing.data_url(drawing.thumbnail(frame, boxes=boxes))}">' for frame in frames[:8]]
            pictures += 1
        elif isinstance(piece, Text):
            parts.append(f'<pre class={kind if kind == "read" else "words"}>{html.escape(piece.text)}</pre>')
        elif isinstance(piece, Region):
            parts.append(f'<span class="region {kind if kind == "read" else ""}" title="{drawing.said(piece)}">'
                         f'{html.escape(piece.text)} &#9634;{len(piece.boxes)}</span>')  # fmt: skip
        else:
            parts.append(f'<i>[{type(piece).__name__}]</i>')
    return f'<div class=doc><b>{html.escape(document.key)}</b> quality {document.quality:g}<br>{"".join(parts)}</div>'


def row_html(batch: Batch, row: int, documents: Sequence[Laid], layout: Layout, masks: Sequence[pillow.Image]) -> str:
    """Returns a row as the model gets it: a colour a document, learnt tokens underlined, numbers on hover."""
    filled = sum(len(d.tokens) for d in documents)
    length = batch.tokens.shape[1]
    parts = [f'<h2>A packed row: {len(documents)} documents, {filled} of {length} places</h2><div class=row>']
    place = medium = 0
    for number, document in enumerate(documents):
        parts.append(f'<div style="background:{drawing.COLOURS[number % len(drawing.COLOURS)]}">')
        parts.append(f'<b>{html.escape(document.key)}</b> ')
        parts += _tokens_html(batch, row, range(place, place + len(document.tokens)), layout)
        parts.append('</div>')
        place, medium = place + len(document.tokens), medium + len(document.media)
    parts.append(f'<span class="t pad">{length - place} places of padding</span></div>')
    parts.append('<h3>What each token (row) sees: tokens' + (', and media tokens</h3>' if len(masks) > 1 else '</h3>'))
    parts += [f'<img src="{drawing.data_url(mask)}">' for mask in masks]
    return ''.join(parts)


def _tokens_html(batch: Batch, row: int, places: range, layout: Layout) -> list[str]:
    """Returns the tokens of some places; runs of places of one picture become that picture."""
    parts, per_medium, run = [], max(1, layout.spec.tokens), None
    looks = batch.media_span is not None
    image = layout.tokenizer.id(layout.config.image.placeholder) if layout.spec.tokens else -1
    seen = 0  # pictures of the row so far, where they stand beside the text
    if looks:
        seen = int((batch.tokens[row, : places.start] == image).sum())
    for place in places:
        index = int(batch.tokens[row, place])
        slot = -1 if batch.slot is None else int(batch.slot[row, place])
        medium = slot // per_medium if 0 <= slot < layout.shape.media * per_medium else None
        if looks and index == image:
            medium, seen = seen, seen + 1
        if medium is not None and medium != run:
            pixels = pillow.fromarray(batch.pixels[row, medium, 0])
            where = f'media tokens {medium * per_medium} to {(medium + 1) * per_medium}'
            parts.append(f'<img title="picture {medium}, {where}, size {batch.media_size[row, medium].tolist()}" '
                         f'src="{drawing.data_url(drawing.with_boxes(pixels, (), 96))}">')  # fmt: skip
        run = medium
        if medium is not None and not looks:
            continue
        parts.append(_token_html(batch, row, place, layout))
    return parts


def _token_html(batch: Batch, row: int, place: int, layout: Layout) -> str:
    index, weight = int(batch.tokens[row, place]), float(batch.weight[row, place - 1]) if place else 0.0
    text = layout.tokenizer.spelling[index]
    text = '' if text is None else text.decode('utf-8', 'backslashreplace')
    shown = html.escape(text).replace('\n', '&#8629;\n').replace(' ', '&#183;')
    numbers = f'place {place}, id {index}, weight {weight:g}, sees {batch.span[row, place].tolist()}'
    numbers += f', position {batch.position[row, place].tolist()}'
    if batch.media_span is not None:
        numbers += f', media {batch.media_span[row, place].tolist()}'
    return f'<span class="t{" learnt" if weight > 0 else ""}" title="{numbers}">{shown}</span>'


def mask_pictures(batch: Batch, row: int) -> list[pillow.Image]:
    """Returns the drawn mask over tokens and, for cross-attention, the one over media tokens."""
    masks = [drawing.mask_picture(batch.span[row], batch.span.shape[1])]
    if batch.media_span is not None:
        keys = max(1, int(np.max(batch.media_span[row])))
        masks.append(drawing.mask_picture(batch.media_span[row], keys, drawing.SEEN_MEDIA))
    return masks


def beside(pictures: Sequence[pillow.Image], gap: int = 12) -> pillow.Image:
    """Returns pictures side by side on white."""
    width = sum(p.width for p in pictures) + gap * (len(pictures) + 1)
    canvas = pillow.new('RGB', (width, max(p.height for p in pictures) + 2 * gap), 'white')
    x = gap
    for picture in pictures:
        canvas.paste(picture, (x, gap))
        x += picture.width + gap
    return canvas
