# SPDX-License-Identifier: Apache-2.0
"""VQA accuracy: how far an answer agrees with those of ten people, after the benchmark's own normalisation.

An answer counts min(n / 3, 1) for n people who gave it, averaged over the ten sets of nine people that leave one out.
The rules, odd ones included, are those of the official evaluation, so that figures can be compared.
"""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_WORDS = 'zero one two three four five six seven eight nine ten'
NUMBERS = {word: str(n) for n, word in enumerate(NUMBER_WORDS.split())}
NUMBERS['none'] = '0'
ARTICLES = ('a', 'an', 'the')
# A form that lacks one of its apostrophes is given it back. Ambiguous ones (its, were, shell) are not in the list.
CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're "
    "you've"
)
WITHOUT = {form[:i] + form[i + 1 :]: form for form in CONTRACTIONS.split() for i, c in enumerate(form) if c == "'"}
WITHOUT["somebody'd"] = 'somebodyd'  # so in the official list


def _trim(answer: str) -> str:
    return answer.replace('\n', ' ').replace('\t', ' ').strip()


def normalise(answer: str) -> str:
    """Returns the answer as it is compared: without punctuation and articles, lower case, numbers as digits."""
    text = answer = _trim(answer)
    thousands = re.search(r'\d,\d', answer)
    for mark in PUNCTUATION:
        alone = f'{mark} ' in answer or f' {mark}' in answer
        text = text.replace(mark, '' if alone or thousands else ' ')
    # A period goes unless a digit follows; the official call removes at most 32 (a flag given in place of a count).
    text = re.sub(r'\.(?!\d)', '', text, count=32)
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return ' '.join(WITHOUT.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, people: Sequence[str]) -> float:
    """Returns the accuracy, 0 to 1, of an answer to a question that people answered so."""
    answer, people = _trim(answer), [_trim(p) for p in people]
    # Where all people agree the official code compares the texts as they stand.
    if len(set(people)) > 1:
        answer, people = normalise(answer), [normalise(p) for p in people]
    same = sum(p == answer for p in people)
    # Leaving out one who agrees takes one from the count; a single person has nobody else to agree with.
    if len(people) == 1:
        return float(same)
    return sum(min((same - (p == answer)) / 3, 1) for p in people) / len(people)
