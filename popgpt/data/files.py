"""Your own lines: text, CSV or Parquet read into lines, with what is wrong with them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.config import UserError
from popgpt.data.lines import I64, Text, hash_spans, prompt_ends, take_lines
from popgpt.data.shuffle import U64, derive_key, permute

_SHOWN = 5
_NEWLINE, _RETURN = 10, 13
_ESCAPED = (0xDC80, 0xDCFF)


class Trouble(NamedTuple):
    """Lines that can't be used: why, and their numbers in the file, from 1."""

    reason: str
    numbers: I64

    def __str__(self) -> str:
        return f"{len(self.numbers)} {self.reason} ({numbered(self.numbers)})"


class Contents(NamedTuple):
    """What a file holds. numbers: [n] the number in the file of each line of `text`. blank: empty lines, left out."""

    text: Text
    numbers: I64
    blank: int
    troubles: list[Trouble]


def numbered(numbers: Sequence[int] | I64) -> str:
    """`line 3` or `lines 3, 5, 8, ...`."""
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{', ...' if len(numbers) > _SHOWN else ''}"


def read_file(name: str, separator: str) -> Contents:
    """The lines of a file: `-` is standard input, .csv and .parquet have columns prompt and answer, the rest is text.

    Raises UserError where it can't be read, is empty, or where the separator is in no line.
    """
    if Path(name).suffix.lower() in (".csv", ".parquet"):
        contents = _read_columns(name, separator)
    else:
        contents = _read_text(_read_bytes(name), separator)
    unusable = sum(len(trouble.numbers) for trouble in contents.troubles)
    if not len(contents.numbers) and not unusable:
        raise UserError(f"{name}: no lines in it")
    without = _without(separator)
    if not len(contents.numbers) and [trouble.reason for trouble in contents.troubles] == [without]:
        raise UserError(f"{name}: the separator {separator!r} is in none of its {unusable} lines; give --separator")
    return contents


def usable_lines(name: str, contents: Contents, drop_bad: bool) -> Text:
    """The lines of a file that can be used. Raises UserError where there are others, unless they are to be dropped."""
    if contents.troubles and not drop_bad:
        wrong = "; ".join(map(str, contents.troubles))
        raise UserError(f"{name}: unusable lines: {wrong}: mend them, or leave them out with --drop-bad")
    if not len(contents.numbers):
        raise UserError(f"{name}: no usable line in it")
    return contents.text


def _without(separator: str) -> str:
    return f"without the separator {separator!r}"


def _read_bytes(name: str) -> bytes:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name}: the text is UTF-16: convert it to UTF-8")
    return data


def _read_text(data: bytes, separator: str) -> Contents:
    """Lines end in LF or CRLF, the last with or without; a byte order mark is dropped."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data and not data.endswith(b"\n"):
        data += b"\n"
    codes: NDArray[Any] = np.frombuffer(data, np.uint8)
    if not data.isascii():
        codes = np.frombuffer(data.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass"), "<u4")
    before_newline = np.append(codes[1:] == _NEWLINE, False)
    codes = codes[~((codes == _RETURN) & before_newline)]
    offsets = np.concatenate(([0], np.flatnonzero(codes == _NEWLINE) + 1))
    return _sort_out(Text(codes, offsets), np.arange(1, len(offsets)), separator, [])


def _sort_out(text: Text, numbers: I64, separator: str, troubles: list[Trouble]) -> Contents:
    """The lines that can be used, and why the others can't."""
    blank = text.lengths == 0
    starts, stops, ends = text.offsets[:-1], text.offsets[1:], prompt_ends(text, separator)
    escaped = np.flatnonzero((text.codes >= _ESCAPED[0]) & (text.codes <= _ESCAPED[1]))
    undecoded = np.zeros(len(blank), np.bool_)
    undecoded[np.searchsorted(stops, escaped, side="right")] = True
    reasons = {
        "that are not UTF-8": undecoded,
        _without(separator): (ends == stops) & ~blank,
        "with an empty prompt": ends == starts,
        "with an empty answer": ends == stops - 2,
    }
    usable = ~blank
    for reason, wrong in reasons.items():
        wrong = wrong & usable
        if wrong.any():
            troubles.append(Trouble(reason, numbers[wrong]))
            usable &= ~wrong
    kept = text if usable.all() else take_lines(text, np.flatnonzero(usable))
    return Contents(kept, numbers[usable], int(blank.sum()), troubles)


def _read_columns(name: str, separator: str) -> Contents:
    """The lines of a table: row 1 is the first below the header."""
    import pyarrow as pa
    import pyarrow.compute as pc

    prompts, answers = _columns(name)
    wrong = {
        "with no prompt or no answer": pc.or_(pc.is_null(prompts), pc.is_null(answers)),
        "with a newline in a column": pc.or_(pc.match_substring(prompts, "\n"), pc.match_substring(answers, "\n")),
        f"with the separator {separator!r} in the prompt": pc.match_substring(prompts, separator),
    }
    usable = np.ones(len(prompts), np.bool_)
    troubles = []
    for reason, flags in wrong.items():
        rows = np.asarray(pc.fill_null(flags, False)) & usable
        if rows.any():
            troubles.append(Trouble(reason, np.flatnonzero(rows) + 1))
            usable &= ~rows
    kept = pa.array(usable)
    parts = [column.filter(kept) for column in (prompts, answers)]
    middle, end = (pa.scalar(character, pa.large_string()) for character in (separator, "\n"))
    empty = pa.scalar("", pa.large_string())
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*parts, middle), empty, end)
    _, offsets, data = lines.buffers()
    text = _read_text(
        data.to_pybytes()[: np.frombuffer(offsets, np.int64)[len(lines)]] if len(lines) else b"", separator
    )
    numbers = np.flatnonzero(usable) + 1
    renumbered = [Trouble(trouble.reason, numbers[trouble.numbers - 1]) for trouble in text.troubles]
    return text._replace(numbers=numbers[text.numbers - 1], troubles=troubles + renumbered)


def _columns(name: str) -> tuple[Any, Any]:
    """The columns prompt and answer of a CSV or Parquet file, as Arrow strings."""
    import pyarrow as pa

    wanted = ["prompt", "answer"]
    if not Path(name).is_file():
        raise UserError(f"{name}: No such file")
    try:
        if name.lower().endswith(".csv"):
            from pyarrow import csv

            types = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.large_string()), strings_can_be_null=False)
            table = csv.read_csv(name, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=types)
        else:
            from pyarrow import parquet

            table = parquet.read_table(name)
        missing = [column for column in wanted if column not in table.column_names]
        if missing:
            raise UserError(
                f"{name}: no column {missing[0]!r}; its columns are {', '.join(map(repr, table.column_names))}"
            )
        repeated = [column for column in wanted if table.column_names.count(column) > 1]
        if repeated:
            raise UserError(f"{name}: several columns {repeated[0]!r}; keep one of them")
        prompts, answers = (table.column(column).cast(pa.large_string()).combine_chunks() for column in wanted)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or str(error).splitlines()[0]}") from None
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from None
    return prompts, answers


class TextLines:
    """Lines that are there already, as a source of a dataset: in an order that `seed` decides, split by prompt."""

    def __init__(self, text: Text, separator: str, seed: int) -> None:
        self._bytes = _to_utf8(text)
        self._keys = hash_spans(text.codes, text.offsets[:-1], prompt_ends(text, separator))
        self._seed = seed

    @property
    def digest(self) -> str:
        """The SHA-256 of the lines as they stood in the file."""
        return hashlib.sha256(self._bytes.codes.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._keys)

    def _order(self, lines: NDArray[Any]) -> I64:
        return permute(lines, len(self), derive_key("lines", self._seed)).astype(np.int64)

    def text(self, lines: NDArray[Any]) -> Text:
        """The lines with these numbers, as UTF-8 bytes with offsets in bytes."""
        return take_lines(self._bytes, self._order(lines))

    def keys(self, lines: NDArray[Any]) -> U64:
        """[n] hashes of these lines' prompts."""
        keys: U64 = self._keys[self._order(lines)]
        return keys


def _to_utf8(text: Text) -> Text:
    """Code points as UTF-8 bytes, with offsets in bytes."""
    if text.codes.dtype == np.uint8:
        return text
    codes = text.codes.astype("<u4")
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    before = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    data = codes.tobytes().decode("utf-32-le").encode()
    return Text(np.frombuffer(data, np.uint8), before[text.offsets])


class Repeats(NamedTuple):
    """lines: how many say again what an earlier one says. conflicts: [k, 2] numbers of the first two lines of each
    prompt with more than one answer.
    """

    lines: int
    conflicts: I64


def find_repeats(contents: Contents, separator: str) -> Repeats:
    """Which prompts of a file stand there more than once, with one answer or with several."""
    text = contents.text
    starts, stops = text.offsets[:-1], text.offsets[1:]
    prompts = hash_spans(text.codes, starts, prompt_ends(text, separator))
    lines = hash_spans(text.codes, starts, stops)
    _, first = np.unique(lines, return_index=True)
    first.sort()
    order = first[np.argsort(prompts[first], kind="stable")]
    same = prompts[order[1:]] == prompts[order[:-1]]
    opens = same & ~np.concatenate(([False], same[:-1]))
    conflicts = np.stack([order[:-1][opens], order[1:][opens]], axis=1)
    conflicts = contents.numbers[conflicts[np.argsort(conflicts[:, 0])]]
    return Repeats(len(lines) - len(first), conflicts)
