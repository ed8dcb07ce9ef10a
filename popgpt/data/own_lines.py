"""Your own lines: text, CSV or Parquet read into lines, with what is wrong with them."""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64, derive_key, permute
from popgpt.lines.text import I64, Text, hash_spans, prompt_ends, take_lines, to_utf8
from popgpt.text.errors import UserError, shortened

_SHOWN = 5
_NEWLINE = 10
_ESCAPED = (0xDC80, 0xDCFF)
_COLUMNS = ("prompt", "answer")
_BLOCK = 2**16  # rows of a CSV file that are Python's strings at a time


class Trouble(NamedTuple):
    """Lines that can't be used: why, and their numbers in the file, from 1. unit: what is numbered, lines or rows."""

    reason: str
    numbers: I64
    unit: str = "line"

    def __str__(self) -> str:
        return f"{len(self.numbers)} {self.reason} ({numbered(self.numbers, self.unit)})"


class Contents(NamedTuple):
    """What a file holds. numbers: [n] the number in the file of each line of `text`: of the line that it begins on, and
    of Parquet, which has no lines, of the row. blank: empty lines, left out.
    """

    text: Text
    numbers: I64
    blank: int
    troubles: list[Trouble]
    unit: str = "line"


def numbered(numbers: Sequence[int] | I64, unit: str = "line") -> str:
    """`line 3` or `lines 3, 5, 8, ...`."""
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    return f"{unit}{'s' if len(numbers) > 1 else ''} {shown}{', ...' if len(numbers) > _SHOWN else ''}"


def read_file(name: str, separator: str) -> Contents:
    """The lines of a file: `-` is standard input, .csv and .parquet have columns prompt and answer, the rest is text.

    Raises UserError where it can't be read, is empty, or where the separator is in no line.
    """
    kind = Path(name).suffix.lower()
    if kind == ".csv":
        contents = _read_csv(name, read_bytes(name), separator)
    elif kind == ".parquet":
        contents = _read_parquet(name, separator)
    else:
        text = _text(ended(read_bytes(name)))
        contents = _sort_out(text, np.arange(1, len(text.offsets)), separator)
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


def read_bytes(name: str) -> bytes:
    """A text file's bytes, or those of standard input (`-`), without a byte order mark. Raises UserError."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name}: the text is UTF-16: convert it to UTF-8")
    return data.removeprefix(b"\xef\xbb\xbf")


def ended(data: bytes) -> bytes:
    """UTF-8 text whose lines end in LF, the last one's too. LF, CRLF and a CR alone end a line; nothing else does."""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data if data.endswith(b"\n") or not data else data + b"\n"


def _text(data: bytes) -> Text:
    """Lines that end in LF. A byte that is not UTF-8 becomes a code of _ESCAPED."""
    codes: NDArray[Any] = np.frombuffer(data, np.uint8)
    if not data.isascii():
        codes = np.frombuffer(data.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass"), "<u4")
    return Text(codes, np.concatenate(([0], np.flatnonzero(codes == _NEWLINE) + 1)))


def _sort_out(text: Text, numbers: I64, separator: str, unit: str = "line") -> Contents:
    """The lines that can be used, and why the others can't."""
    troubles = []
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
            troubles.append(Trouble(reason, numbers[wrong], unit))
            usable &= ~wrong
    kept = text if usable.all() else take_lines(text, np.flatnonzero(usable))
    return Contents(kept, numbers[usable], int(blank.sum()), troubles, unit)


def _read_csv(name: str, data: bytes, separator: str) -> Contents:
    """The lines of a CSV file, in which a record may go over several.

    Python's reader, as it changes nothing: Arrow's (25) takes the LF from a quoted CRLF that straddles its blocks. The
    text is read as Latin-1, in which every byte is a character: what is special in CSV is ASCII.
    """
    records = _records(name, data)
    header = next((row for _, row in records if row), [])
    if not header:
        raise UserError(f"{name}: no lines in it")
    _check_columns(name, [column.encode("latin-1").decode("utf-8", "replace") for column in header])
    table = _read_table(records, len(header), [header.index(column) for column in _COLUMNS])
    contents = _join(table.prompts, table.answers, np.asarray(table.numbers, np.int64), separator, "line")
    if table.ragged:
        ragged = Trouble(f"without just {len(header)} columns", np.asarray(table.ragged, np.int64))
        contents.troubles.insert(0, ragged)
    return contents._replace(blank=table.blank)


def _records(name: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file, the empty ones too, each with the line it begins on. Raises UserError."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "latin-1", newline=""), strict=True)
    line = 1
    try:
        for record in reader:
            yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}: line {line}: not CSV: {error}") from None


class _Table(NamedTuple):
    """What a CSV file holds below its header. prompts, answers: their bytes, as Arrow arrays. numbers: the line that
    each begins on; ragged: that of each record with more or fewer columns, left out. blank: empty lines, left out.
    """

    prompts: Any
    answers: Any
    numbers: Sequence[int]
    ragged: Sequence[int]
    blank: int


def _read_table(records: Iterable[tuple[int, list[str]]], width: int, places: Sequence[int]) -> _Table:
    """The records, which should have `width` columns, the prompt and the answer at `places`."""
    import pyarrow as pa

    def encoded() -> list[Any]:
        return [pa.array([pair[i].encode("latin-1") for pair in pairs], pa.large_binary()) for i in (0, 1)]

    (prompt, answer), pairs, blocks = places, [], []
    numbers, ragged, blank = array("q"), array("q"), 0
    for line, record in records:
        if len(record) == width:
            pairs.append((record[prompt], record[answer]))
            numbers.append(line)
        elif record:
            ragged.append(line)
        else:
            blank += 1
        if len(pairs) == _BLOCK:
            blocks.append(encoded())
            pairs = []
    blocks.append(encoded())
    prompts, answers = (pa.chunked_array(parts).combine_chunks() for parts in zip(*blocks, strict=True))
    return _Table(prompts, answers, numbers, ragged, blank)


def _read_parquet(name: str, separator: str) -> Contents:
    """The lines of a Parquet file; row 1 is the first."""
    import pyarrow as pa
    from pyarrow import parquet

    if not Path(name).is_file():
        raise UserError(f"{name}: No such file")
    try:
        with parquet.ParquetFile(name) as file:
            _check_columns(name, file.schema_arrow.names)
            for column in _COLUMNS:
                _check_type(name, file.schema_arrow.field(column))
            table = file.read(list(_COLUMNS))
        prompts, answers = (_as_text(table.column(column)).combine_chunks() for column in _COLUMNS)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or str(error).splitlines()[0]}") from None
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from None
    return _join(prompts, answers, np.arange(1, len(prompts) + 1), separator, "row")


def _check_columns(name: str, found: list[str]) -> None:
    """Raises UserError unless prompt and answer are there, once each."""
    for column in _COLUMNS:
        if column not in found:
            shown = ", ".join(map(shortened, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
            raise UserError(f"{name}: no column {column!r}; its columns are {shown}")
        if found.count(column) > 1:
            raise UserError(f"{name}: several columns {column!r}; keep one of them")


def _check_type(name: str, field: Any) -> None:
    """Raises UserError where a column's values have no text that is theirs alone."""
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    binaries = (types.is_binary, types.is_large_binary, types.is_binary_view)
    if not any(holds(kind) for holds in (*texts, *binaries, types.is_integer, types.is_decimal, types.is_null)):
        why = ", which are not exact" if types.is_floating(kind) else ""
        plain = str(kind).partition("<")[0].partition("[")[0]
        wanted = "store it as text, integers or decimals"
        raise UserError(f"{name}: column {field.name!r} holds values of type {plain}{why}: {wanted}")


def _as_text(column: Any) -> Any:
    """A column of _check_type's as UTF-8 bytes; a decimal has as many digits after its point as its type says."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_decimal(column.type):  # Arrow would write some with an exponent
        values = [None if value is None else f"{value:f}" for value in column.to_pylist()]
        column = pa.chunked_array([pa.array(values, pa.large_string())])
    if types.is_integer(column.type):
        column = column.cast(pa.large_string())
    return column.cast(pa.large_binary())


def _join(prompts: Any, answers: Any, numbers: I64, separator: str, unit: str) -> Contents:
    """The lines that two columns of UTF-8 bytes make."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def in_either(characters: str) -> Any:
        return pc.or_(*(pc.match_substring(column, characters) for column in (prompts, answers)))

    wrong = {
        "with no prompt or no answer": pc.or_(pc.is_null(prompts), pc.is_null(answers)),
        "with a newline in a column": pc.or_(in_either("\n"), in_either("\r")),
        f"with the separator {separator!r} in the prompt": pc.match_substring(prompts, separator),
    }
    usable = np.ones(len(prompts), np.bool_)
    troubles = []
    for reason, flags in wrong.items():
        rows = np.asarray(pc.fill_null(flags, False)) & usable
        if rows.any():
            troubles.append(Trouble(reason, numbers[rows], unit))
            usable &= ~rows
    kept = pa.array(usable)
    parts = [column.filter(kept) for column in (prompts, answers)]
    middle, end, nothing = (pa.scalar(text, pa.large_binary()) for text in (separator.encode(), b"\n", b""))
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*parts, middle), nothing, end)
    _, offsets, data = lines.buffers()
    size = np.frombuffer(offsets, np.int64)[len(lines)] if len(lines) else 0
    contents = _sort_out(_text(data.to_pybytes()[:size] if size else b""), numbers[usable], separator, unit)
    return contents._replace(troubles=troubles + contents.troubles)


class TextLines:
    """Lines that are there already, as a source of a dataset: in an order that `seed` decides, split by prompt."""

    alphabet = ""

    def __init__(self, text: Text, separator: str, seed: int) -> None:
        self._bytes = to_utf8(text)
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
