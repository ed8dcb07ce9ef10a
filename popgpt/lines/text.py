"""What a line is: a prompt, the first separator, an answer, a newline. Nothing here knows what lines are about."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64, mix

I64 = NDArray[np.int64]

NEWLINE = "\n"
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_SPANS = 2**13


class Text(NamedTuple):
    """Lines one after another, each with its newline.

    codes: [C] code points (of ASCII text, its bytes). offsets: [n + 1], line i is codes[offsets[i]:offsets[i + 1]].
    """

    codes: NDArray[Any]
    offsets: NDArray[Any]

    @property
    def lengths(self) -> I64:
        """[n] characters of each line, its newline not counted."""
        return np.diff(self.offsets).astype(np.int64) - 1


def split_line(line: str, separator: str) -> tuple[str, str]:
    """The prompt before the first separator and the answer after it; the answer is "" where there is none."""
    prompt, _, answer = line.partition(separator)
    return prompt, answer


def kind_of(prompt: str, symbols: str) -> str:
    """The first character of `prompt`, from its second on, that is in `symbols`; else "". For breakdowns."""
    return next((character for character in prompt[1:] if character in symbols), "")


def from_utf8(data: NDArray[np.uint8], offsets: NDArray[Any], *, ascii_only: bool) -> Text:
    """Lines in UTF-8 bytes, with offsets in bytes, as code points with offsets in characters. ASCII is not copied."""
    if ascii_only:
        return Text(data, offsets)
    codes = np.frombuffer(data.tobytes().decode("utf-8").encode("utf-32-le"), np.uint32)
    before = np.concatenate(([0], np.cumsum((data & 0xC0) != 0x80, dtype=np.int64)))
    return Text(codes, before[offsets])


def to_utf8(text: Text) -> Text:
    """Code points as UTF-8 bytes, with offsets in bytes."""
    if text.codes.dtype == np.uint8:
        return text
    codes = text.codes.astype("<u4")
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    before = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    return Text(np.frombuffer(decode(codes).encode(), np.uint8), before[text.offsets])


def decode(codes: NDArray[Any]) -> str:
    """Code points as a string."""
    return codes.astype("<u4").tobytes().decode("utf-32-le")


def join_lines(lines: Sequence[str]) -> Text:
    """Lines, given without their newlines, as code points; a lone surrogate is one of them."""
    joined = "".join(line + NEWLINE for line in lines)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    return Text(codes, np.concatenate(([0], np.cumsum([len(line) + 1 for line in lines], dtype=np.int64))))


def take_lines(text: Text, lines: NDArray[Any]) -> Text:
    """The lines with the numbers `lines`, in that order."""
    starts = text.offsets[lines].astype(np.int64)
    sizes = text.offsets[lines + 1].astype(np.int64) - starts
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    return Text(text.codes[np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])], offsets)


def prompt_ends(text: Text, separator: str) -> I64:
    """[n] where in `text.codes` each line's first separator is; the end of the line where it has none."""
    hits = np.flatnonzero(text.codes == ord(separator))
    return first_at_or_after(hits, text.offsets[:-1], text.offsets[1:])


def kinds(text: Text, ends: I64, symbols: str) -> NDArray[np.int64]:
    """[n] `kind_of` each prompt as an index into `symbols`; -1 where there is none."""
    index = np.full(int(text.codes.max(initial=0)) + 1, -1, np.int64)
    for number, symbol in enumerate(symbols):
        if ord(symbol) < len(index):
            index[ord(symbol)] = number
    kind_at = index[text.codes]
    first = first_at_or_after(np.flatnonzero(kind_at >= 0), text.offsets[:-1] + 1, ends)
    return np.where(first < ends, kind_at[np.minimum(first, len(kind_at) - 1)], -1)


def first_at_or_after(hits: I64, starts: NDArray[Any], limits: NDArray[Any]) -> I64:
    """[n] the first of the sorted `hits` from each start on, but at most its limit."""
    padded = np.append(hits, np.iinfo(np.int64).max)
    first: I64 = np.minimum(padded[np.searchsorted(hits, starts)], limits)
    return first


def hash_spans(codes: NDArray[Any], starts: NDArray[Any], stops: NDArray[Any]) -> U64:
    """[n] a 64-bit hash of each codes[start:stop]: equal spans hash alike wherever they stand. Starts ascend."""
    hashes = np.empty(len(starts), np.uint64)
    for first in range(0, len(starts), _SPANS):
        chunk = slice(first, first + _SPANS)
        low, high = int(starts[chunk][0]), int(stops[chunk].max())
        hashes[chunk] = _hash_chunk(codes[low:high], starts[chunk] - low, stops[chunk] - low)
    return hashes


def _hash_chunk(codes: NDArray[Any], starts: NDArray[Any], stops: NDArray[Any]) -> U64:
    """A polynomial of the scrambled codes, from prefix sums: a span's sum, moved to where the text begins."""
    size = 1 << len(codes).bit_length()
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(mix(codes.astype(np.uint64)) * _powers(_BASE, size)[: len(codes)], out=sums[1:])
    spans = (sums[stops] - sums[starts]) * _powers(_INVERSE, size)[starts]
    return mix(spans ^ (stops - starts).astype(np.uint64))


@lru_cache(maxsize=4)
def _powers(base: int, count: int) -> U64:
    """[count] base**0, base**1, ... modulo 2**64."""
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers)
