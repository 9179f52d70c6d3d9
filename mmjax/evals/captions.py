# SPDX-License-Identifier: Apache-2.0
"""Caption metrics over a whole set of captions: BLEU-1 to 4, ROUGE-L, CIDEr, with the numbers of coco-caption.

Captions are lists of words; `words` makes them from a sentence (lower case, punctuation left out), more simply than the
Penn Treebank tokeniser of the official scripts: for figures to be compared with published ones, tokenise as they did.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

Caption = Sequence[str]
SIGMA = 6.0  # of CIDEr's penalty for captions of another length
BETA = 1.2  # ROUGE-L weighs recall a little more than precision


def words(text: str) -> list[str]:
    """Returns the words of a sentence."""
    return re.findall(r"[\w']+", text.lower())


def _ngrams(caption: Caption, size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(caption[i:] for i in range(size)), strict=False))


def bleu(found: Sequence[Caption], references: Sequence[Sequence[Caption]], size: int = 4) -> list[float]:
    """Returns BLEU-1 to BLEU-`size` of a set: shares of n-grams that a reference has, times a penalty for shortness."""
    length = sum(map(len, found))
    nearest = sum(
        min((abs(len(r) - len(f)), len(r)) for r in refs)[1] for f, refs in zip(found, references, strict=True)
    )
    # The small numbers are those of the official script: a set without a single right 4-gram has BLEU-4 near 0, not 0.
    ratio = (length + 1e-15) / (nearest + 1e-9)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(1, size + 1):
        right = total = 0
        for f, refs in zip(found, references, strict=True):
            most: Counter[tuple[str, ...]] = Counter()
            for r in refs:
                most |= _ngrams(r, n)
            right += (_ngrams(f, n) & most).total()
            total += max(0, len(f) - n + 1)
        product *= (right + 1e-15) / (total + 1e-9)
        scores.append(product ** (1 / n) * penalty)
    return scores


def _common(a: Caption, b: Caption) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(found: Caption, references: Sequence[Caption]) -> float:
    """Returns the F-measure of the longest common subsequence: the best precision and recall of any reference."""
    common = [_common(found, r) for r in references]
    precision = max(c / max(len(found), 1) for c in common)
    recall = max(c / max(len(r), 1) for c, r in zip(common, references, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision and recall else 0.0


def cider(found: Sequence[Caption], references: Sequence[Sequence[Caption]], size: int = 4) -> list[float]:
    """Returns CIDEr-D of each caption, times 10: likeness of n-grams weighted by how few pictures they describe."""
    pictures = Counter(gram for refs in references for gram in {g for r in refs for g in _all(r, size)})
    rarity = lambda gram: math.log(len(references)) - math.log(max(1, pictures[gram]))
    scores = []
    for f, refs in zip(found, references, strict=True):
        own = [{g: c * rarity(g) for g, c in _ngrams(f, n).items()} for n in range(1, size + 1)]
        total = 0.0
        for r in refs:
            # The official script measures lengths in pairs of words.
            shift = max(len(f) - 1, 0) - max(len(r) - 1, 0)
            other = [{g: c * rarity(g) for g, c in _ngrams(r, n).items()} for n in range(1, size + 1)]
            alike = sum(_cosine(a, b) for a, b in zip(own, other, strict=True)) / size
            total += alike * math.exp(-(shift**2) / (2 * SIGMA**2))
        scores.append(10 * total / len(refs))
    return scores


def _all(caption: Caption, size: int) -> set[tuple[str, ...]]:
    return {gram for n in range(1, size + 1) for gram in _ngrams(caption, n)}


def _cosine(found: dict[tuple[str, ...], float], reference: dict[tuple[str, ...], float]) -> float:
    """Returns the cosine of two bags, where no n-gram counts for more than the reference has of it."""
    norm = math.sqrt(sum(v * v for v in found.values())) * math.sqrt(sum(v * v for v in reference.values()))
    shared = sum(min(v, reference[g]) * reference[g] for g, v in found.items() if g in reference)
    return shared / norm if norm else 0.0


def anls(answer: str, references: Sequence[str], least: float = 0.5) -> float:
    """Returns the likeness of an answer to the nearest reference, 1 - edit distance / length; 0 below `least`."""
    squeeze = lambda text: ' '.join(text.lower().split())
    a = squeeze(answer)
    best = max(1 - _distance(a, b) / max(len(a), len(b), 1) for b in map(squeeze, references))
    return best if best >= least else 0.0


def _distance(a: str, b: str) -> int:
    """Returns how many letters must be put in, left out or changed to make one text the other."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]
