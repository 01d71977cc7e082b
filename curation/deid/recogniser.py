"""A trained recogniser of identifiers: a small convolutional network over words and Chinese characters.

The rules (`curation.deid.text`) know what has a form or a word before it; a lone surname in running prose, a ward that
is only a number, half a date have none. This network reads each word or character with its neighbours (20 to each
side), what the word lists say of it and what the rules have found there, and gives the kind of identifier it belongs
to. It is trained by `python -m benchmarks.deid.train` on invented notes; its weights are `data/recogniser.npz`.

Several such networks, trained alike but for their random numbers, are asked, and their mean counts: they err in
different places (Lakshminarayanan et al. 2017, deep ensembles).

The layers: a sum of hashed features' embeddings (Weinberger et al. 2009, feature hashing; as in spaCy's tagger), then
residual convolutions of width 3 whose dilation grows (Strubell et al. 2017, iterated dilated convolutions for tagging).
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.deid.kinds import Kind, Note, Span
from curation.deid.names_en import is_eponym, is_given, is_surname, is_unknown, ordinary
from curation.deid.names_zh import tags
from curation.deid.words import lexicon, words

Floats = NDArray[np.float32]

# What a token can be; the order is that of the network's outputs.
OUTSIDE: Final = "O"
LABELS: Final = (OUTSIDE, "NAME", "DATE", "AGE", "CONTACT", "CODE", "ADDRESS", "WARD")
# A token is an identifier's when the network gives "outside" no more than the rest of this. Chosen on tuning notes.
SURE: Final = 0.4
# What the rules took by their lists alone is given up when the network is so sure of "outside" for all of it.
DOUBTED: Final = 0.95
_DOUBTFUL: Final = frozenset((Kind.NAME, Kind.ADDRESS, Kind.WARD))
_KINDS: Final = {
    "NAME": Kind.NAME, "DATE": Kind.DATE, "AGE": Kind.AGE, "CONTACT": Kind.PHONE, "CODE": Kind.NUMBER,
    "ADDRESS": Kind.ADDRESS, "WARD": Kind.WARD,
}  # fmt: skip
# Rows of the table of embeddings. Features that share one by chance are told apart by the token's others.
ROWS: Final = 1 << 15
DILATIONS: Final = (1, 2, 4, 8, 4, 1)

_TOKEN = re.compile(r"[\u3400-\u9fff]|[A-Za-zÀ-ɏ\u0300-\u036f]+|[0-9]+|\n|\S")
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Token:
    """`[start, end)` of the view; `text` as it stands there."""

    start: int
    end: int
    text: str


def tokens(view: str) -> list[Token]:
    """Words, runs of digits, single Chinese characters, signs and line ends."""
    return [Token(match.start(), match.end(), match.group()) for match in _TOKEN.finditer(view)]


def features(view: str, found: Sequence[Token], spans: Sequence[Span]) -> list[list[str]]:
    """For each token its features by name: of its own, of its neighbours in Chinese, of the rules' `spans`."""
    by_rule = _cover(found, ((span.start, span.end, span.kind.name) for span in spans))
    by_tag = _cover(found, tags(view)) if _HAN.search(view) else [""] * len(found)
    last = len(found) - 1
    result = []
    for place, token in enumerate(found):
        own = list(_own(token.text))
        own.append("r" + by_rule[place])
        if place == 0 or found[place - 1].end == token.start:
            own.append("j")
        if _is_han(token.text):
            before = found[place - 1].text if place else "^"
            after = found[place + 1].text if place < last else "$"
            beyond = found[place + 2].text if place + 1 < last else "$"
            own += _between(before, token.text, after, beyond)
            own.append("t" + by_tag[place])
        result.append(own)
    return result


@lru_cache(1 << 16)
def _between(before: str, character: str, after: str, beyond: str) -> tuple[str, str, str]:
    """What a Chinese character's neighbours say: the pairs, and which of them the dictionary has as words."""
    known = _words_zh()
    pairs = (before + character, character + after, character + after + beyond, before + character + after)
    return "b" + pairs[0], "a" + pairs[1], "d" + "".join("1" if pair in known else "0" for pair in pairs)


def _cover(found: Sequence[Token], ranges: Iterable[tuple[int, int, str]]) -> list[str]:
    """For each token the name of the range that its begin lies in."""
    names = [""] * len(found)
    starts = [token.start for token in found]
    for start, end, name in ranges:
        place = bisect_left(starts, start)
        while place < len(found) and starts[place] < end:
            names[place] = names[place] or name
            place += 1
    return names


@cache
def _words_zh() -> frozenset[str]:
    return lexicon("words_zh")


@lru_cache(1 << 14)
def _is_han(text: str) -> bool:
    return _HAN.search(text) is not None


@lru_cache(1 << 16)
def _own(text: str) -> tuple[str, ...]:
    """What a token says without its neighbours."""
    lower = text.lower()
    if text.isdigit():
        return "n" + str(min(len(text), 9)), "v" + (text if len(text) < 3 else text[:2] if len(text) == 4 else "")
    if _is_han(text):
        return "w" + text, f"s{text in words('surnames_zh'):d}"
    if not text.isalpha():
        return ("w" + text,)
    shape = "X" if text.isupper() else "x" if text.islower() else "Xx" if text.istitle() else "xX"
    capital = text.capitalize()
    lists = (
        is_given(capital), is_surname(capital), ordinary(lower), is_eponym(text), is_unknown(capital),
        capital in lexicon("towns"), capital in words("word_names_en"), lower in words("not_names_en"),
    )  # fmt: skip
    return (
        "w" + lower, "h" + shape + str(min(len(text), 6)), "p" + lower[:3], "e" + lower[-3:], "f" + lower[-2:],
        "l" + "".join(str(int(said)) for said in lists), "m" + shape + "".join(str(int(said)) for said in lists[:3]),
    )  # fmt: skip


@lru_cache(1 << 18)
def row(feature: str) -> int:
    """The feature's row in the table, the same on every machine."""
    return zlib.crc32(feature.encode()) % ROWS


@dataclass(frozen=True, slots=True)
class Weights:
    """The network. d is the width of a token's vector, k the number of `LABELS`.

    table: (ROWS, d); convolutions: for each dilation (3·d, d) and (d,); out: (d, k) and (k,)
    """

    table: Floats
    convolutions: tuple[tuple[Floats, Floats], ...]
    out: tuple[Floats, Floats]


def scores(rows: Sequence[Sequence[int]], networks: Sequence[Weights]) -> Floats:
    """(n, k) probabilities of the labels for n tokens, each given by the rows of its features: the networks' mean."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    flat = np.fromiter((one for many in rows for one in many), dtype=np.int64, count=int(lengths.sum()))
    begins = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    answers = [_answer(np.add.reduceat(network.table[flat], begins, axis=0), network) for network in networks]
    return np.asarray(np.mean(answers, axis=0), dtype=np.float32)


def _answer(state: Floats, weights: Weights) -> Floats:
    """(n, k) what one network says of n tokens, each given by the sum of its features' vectors."""
    state = _normal(state)
    width = state.shape[1]
    for dilation, (kernel, bias) in zip(DILATIONS, weights.convolutions, strict=True):
        padded = np.zeros((len(state) + 2 * dilation, width), dtype=np.float32)
        padded[dilation:-dilation] = state
        near = np.concatenate((padded[: len(state)], state, padded[2 * dilation :]), axis=1)
        state = _normal(state + np.maximum(near @ kernel + bias, 0.0))
    answers = state @ weights.out[0] + weights.out[1]
    answers = np.exp(answers - answers.max(axis=1, keepdims=True))
    return np.asarray(answers / answers.sum(axis=1, keepdims=True), dtype=np.float32)


def _normal(state: Floats) -> Floats:
    """Each token's vector with mean 0 and variance 1 (Ba et al. 2016, layer normalisation, without gain and offset)."""
    centred = state - state.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + np.float32(1e-5))
    return np.asarray(centred / spread, dtype=np.float32)


@cache
def networks() -> tuple[Weights, ...]:
    """The trained ones."""
    with files("curation.deid").joinpath("data", "recogniser.npz").open("rb") as file, np.load(file) as kept:
        read = {name: kept[name].astype(np.float32) for name in kept.files}
    return tuple(
        Weights(
            table * scale,
            tuple((read[f"kernel{number}"][at], read[f"bias{number}"][at]) for number in range(len(DILATIONS))),
            (read["out"][at], read["out_bias"][at]),
        )
        for at, (table, scale) in enumerate(zip(read["table"], read["scale"], strict=True))
    )


def probabilities(view: str, spans: Sequence[Span]) -> tuple[list[Token], Floats]:
    """The tokens of `view` and (n, k) what each may be; `spans` are what the rules have found."""
    found = tokens(view)
    if not found:
        return [], np.zeros((0, len(LABELS)), dtype=np.float32)
    rows = [[row(feature) for feature in many] for many in features(view, found, spans)]
    return found, scores(rows, networks())


def recognised(note: Note, spans: Sequence[Span]) -> list[Span]:
    """`spans`, which the rules have found, less what the network takes for harmless, and what it finds besides."""
    found, chances = probabilities(note.view, spans)
    outside = np.zeros(len(note.view), dtype=np.float32)
    for token, chance in zip(found, chances, strict=True):
        outside[token.start : token.end] = chance[0]
    kept = [span for span in spans if span.kind not in _DOUBTFUL or _is_likely(note.view, span, outside)]
    # Who has a name in one place of a note has it in the others, too.
    named = {note.view[span.start : span.end] for span in kept if span.kind is Kind.NAME}
    kept += [span for span in spans if span.kind is Kind.NAME and note.view[span.start : span.end] in named]
    return kept + [_as_ruled(run, kept) for run in _runs(note.view, found, chances)]


def _as_ruled(run: Span, kept: Sequence[Span]) -> Span:
    """The run with the kind of what the rules have found there: they know kinds better, the network where they end."""
    kinds = [span.kind for span in kept if span.start < run.end and run.start < span.end]
    return Span(run.start, run.end, kinds[0]) if kinds else run


def _is_likely(view: str, span: Span, outside: Floats) -> bool:
    return any(
        outside[place] < DOUBTED and view[place].isalnum() for place in range(span.start, min(span.end, len(view)))
    )


def _runs(view: str, found: Sequence[Token], chances: Floats) -> Iterator[Span]:
    """Neighbouring tokens that are likely an identifier's, as one span; its kind is that of most of their weight."""
    start = end = -1
    weight = np.zeros(len(LABELS), dtype=np.float32)
    for token, chance in zip(found, chances, strict=True):
        if 1.0 - chance[0] < SURE or token.text == "\n":
            continue
        if start >= 0 and view[end : token.start].strip(" ") == "" and token.start - end <= 1:
            end, weight = token.end, weight + chance
            continue
        yield from _run(view, start, end, weight)
        start, end, weight = token.start, token.end, chance
    yield from _run(view, start, end, weight)


def _run(view: str, start: int, end: int, weight: Floats) -> Iterator[Span]:
    if start >= 0 and any(character.isalnum() for character in view[start:end]):
        yield Span(start, end, _KINDS[LABELS[1 + int(weight[1:].argmax())]])
