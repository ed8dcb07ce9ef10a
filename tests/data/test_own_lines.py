"""Anybody's file: what it holds comes through to the letter, what it can't hold is named, nothing escapes."""

from __future__ import annotations

import csv as python_csv
import io
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from popgpt import prepare
from popgpt.data.dataset import open_dataset
from popgpt.data.meta import SPLITS
from popgpt.data.own_lines import Contents, find_repeats, read_file
from popgpt.tasks.text import OwnLines
from popgpt.text.errors import UserError
from tests.reference import lines_in


def prepared(path: Path, *arguments: str) -> Counter[str]:
    """The lines of a dataset made from a file, over all splits."""
    prepare.main(["--from-text", str(path), "--dataset", "own", "--data-dir", str(path.parent / "data"), *arguments])
    dataset = open_dataset(path.parent / "data" / "own")
    return Counter(line for split in SPLITS for line in dataset.split(split).lines())


def write(folder: Path, data: bytes | str) -> Path:
    path = folder / "lines.txt"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        "a=1\nb=2\nc=3\n",
        "a=1\nb=2\nc=3",
        "a=1\r\nb=2\r\nc=3\r\n",
        "a=1\r\nb=2\nc=3\r\n",
        "a=1\r\nb=2\r\nc=3",
        "a=1\r\nb=2\r\nc=3\r",
        "a=1\rb=2\rc=3",
        "a=1\rb=2\nc=3\r\n",
        "a=1\r\r\nb=2\r\r\nc=3\r\r\n",
        "\ufeffa=1\nb=2\nc=3\n",
        "\n\na=1\n\nb=2\n\r\nc=3\n\n",
    ],
)
def test_line_ends_marks_and_blank_lines_are_handled(tmp_path: Path, data: str) -> None:
    assert prepared(write(tmp_path, data)) == Counter(["a=1", "b=2", "c=3"])


def held(contents: Contents) -> list[str]:
    """The lines that a file was found to hold."""
    codes, offsets = contents.text
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    return [text[start : stop - 1] for start, stop in pairwise(offsets)]


END = st.sampled_from(["\n", "\r\n", "\r", "\r\r\n", "\n\r"])
ODD = st.sampled_from(["a=1", "=", "", "b=\x85", "\u2028=c", "\x0b=\x0c", "\0=\0", "\ufeff", "\x1a", "é=é", "\udcff=1"])


@given(st.lists(st.tuples(ODD, END)), ODD)
def test_lines_are_those_of_a_slow_reference(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str]], last: str
) -> None:
    data = ("".join(line + end for line, end in parts) + last).encode("utf-8", "surrogateescape")
    path = write(tmp_path_factory.getbasetemp(), b"first=1\n" + data)
    lines = dict(enumerate(lines_in(path.read_bytes()), 1))
    contents = read_file(str(path), "=")
    kept = {number: line for number, line in lines.items() if usable(line, "=")}
    assert dict(zip(contents.numbers.tolist(), held(contents), strict=True)) == kept
    assert contents.blank == Counter(lines.values())[""]
    troubled = [number for trouble in contents.troubles for number in trouble.numbers.tolist()]
    assert sorted(troubled) == [number for number, line in lines.items() if line and number not in kept]


def test_any_alphabet_and_several_separators(tmp_path: Path) -> None:
    lines = ["straße→1", "😀😀→→", "a→b→c", "\x00\x0b\x85\u2028→\x1f", "日本→語"]
    assert prepared(write(tmp_path, "\n".join(lines)), "--separator", "→") == Counter(lines)
    dataset = open_dataset(tmp_path / "data" / "own")
    assert {*"".join(lines), "\n"} == {*dataset.meta.characters}
    prompts = ["a", "a→b", "日本", ""]
    held = sum(dataset.split(split).contains(prompts, OwnLines()).astype(int) for split in SPLITS)
    assert held.tolist() == [1, 0, 1, 0]


BAD = b"a=1\nnope\n=3\nc=\nd=4=5\n\xff=2\nb=7\nb=8\nb=7\n"


def test_bad_lines_are_named_with_their_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        prepared(write(tmp_path, BAD))
    assert str(error.value).partition("lines.txt: ")[2] == (
        "unusable lines: 1 that are not UTF-8 (line 6); 1 without the separator '=' (line 2); 1 with an empty prompt "
        "(line 3); 1 with an empty answer (line 4): mend them, or leave them out with --drop-bad"
    )
    assert not (tmp_path / "data").exists()


def test_bad_lines_can_be_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepared(write(tmp_path, BAD), "--drop-bad") == Counter(["a=1", "d=4=5", "b=7", "b=8", "b=7"])
    out = " ".join(capsys.readouterr().out.split())
    assert "left out 1 lines with an empty answer: line 4" in out
    assert "repeated 1 lines" in out
    assert "conflicts 1 prompts with several answers: lines 7 and 8" in out


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("", (), "no lines in it"),
        ("\n\n", (), "no lines in it"),
        ("a:1\nb:2\n", (), "the separator '=' is in none of its 2 lines; give --separator"),
        ("a=1\na=2\na=3\n", (), "3 lines with 1 prompts can't be split"),
        ("a=1\n", ("--separator", "=="), "should be one character"),
        ("a=1\n", ("--separator", "\n"), "should be one character"),
        ("a=1\n", ("--val-lines", "0"), "--val-lines 0 should be at least 1"),
        ("a=\n", ("--drop-bad",), "no usable line"),
        (b"\xff\xfea\x00", (), "lines.txt: the text is UTF-16"),
    ],
)
def test_what_cannot_be_made_a_dataset(tmp_path: Path, data: Any, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        prepared(write(tmp_path, data), *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "own").exists()


ROWS = {"prompt": ["a,b", "007", "é", "x"], "answer": ["1", "08", '"q"', "="]}
LINES = Counter(["a,b=1", "007=08", 'é="q"', "x=="])


def test_tables(tmp_path: Path) -> None:
    table = pa.table({"other": [1, 2, 3, 4], **ROWS})
    csv.write_csv(table, tmp_path / "lines.csv")
    parquet.write_table(table, tmp_path / "lines.parquet")
    assert prepared(tmp_path / "lines.csv") == LINES
    assert prepared(tmp_path / "lines.parquet") == LINES  # the same lines: already there
    parquet.write_table(pa.table({"prompt": [1, 2, 3], "answer": [2, 4, 6]}), tmp_path / "numbers.parquet")
    assert prepared(tmp_path / "numbers.parquet", "--force") == Counter(["1=2", "2=4", "3=6"])


def test_bad_rows_of_tables(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", None, "b=", "c\nd", "e", "f"], "answer": ["1", "2", "3", "4", "", "5"]})
    parquet.write_table(table, tmp_path / "lines.parquet")
    contents = read_file(str(tmp_path / "lines.parquet"), "=")
    assert {trouble.reason: trouble.numbers.tolist() for trouble in contents.troubles} == {
        "with no prompt or no answer": [2],
        "with the separator '=' in the prompt": [3],
        "with a newline in a column": [4],
        "with an empty answer": [5],
    }
    assert contents.numbers.tolist() == [1, 6]
    parquet.write_table(table.select(["prompt"]), tmp_path / "one.parquet")
    with pytest.raises(UserError, match="no column 'answer'; its columns are 'prompt'"):
        read_file(str(tmp_path / "one.parquet"), "=")
    (tmp_path / "no.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(UserError, match=r"no\.parquet: "):
        read_file(str(tmp_path / "no.parquet"), "=")


def test_a_repeated_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "lines.csv").write_text("prompt,prompt,answer\n1,2,3\n")
    with pytest.raises(UserError, match=r"lines\.csv: several columns 'prompt'; keep one of them"):
        read_file(str(tmp_path / "lines.csv"), "=")
    twice = pa.Table.from_arrays([pa.array(["1"])] * 3, ["prompt", "answer", "answer"])
    parquet.write_table(twice, tmp_path / "lines.parquet")
    with pytest.raises(UserError) as refused:
        read_file(str(tmp_path / "lines.parquet"), "=")
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for name in ("missing.txt", "missing.csv", "missing.parquet", "."):
        with pytest.raises(UserError, match=r"No such file|Is a directory"):
            read_file(str(tmp_path / name), "=")


MEBIBYTE = 2**20


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("shift", [-2, -1, 0, 1])
def test_a_line_end_in_quotes_is_seen_wherever_it_stands(tmp_path: Path, end: str, shift: int) -> None:
    """Arrow's reader takes the LF from a CRLF that straddles its blocks of 1 MiB."""
    filler, bad = ("1" * 998 + "+1,2\n").encode(), f'1+2,"3{end}"\n'.encode()
    data, numbers, line = bytearray(b"prompt,answer\n"), [], 2
    for border in (MEBIBYTE, 2 * MEBIBYTE):
        count, rest = divmod(border + shift - len(data) - bad.index(b"3") - 1, len(filler))
        rest += len(filler)  # the last filler is as much longer
        data += filler * (count - 1) + b"1" * (rest - len(filler)) + filler + bad
        numbers.append(line + count)
        line = numbers[-1] + 2
        assert data.rindex(end.encode(), 0, len(data) - 2) == border + shift
    (tmp_path / "lines.csv").write_bytes(data)
    [trouble] = read_file(str(tmp_path / "lines.csv"), "=").troubles
    assert (trouble.reason, trouble.numbers.tolist()) == ("with a newline in a column", numbers)


FIELD = st.text(st.sampled_from('ab1,"\r\n =é\0\ufeff\x85\u2028'), max_size=6)


@given(
    st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
)
def test_a_csv_file_holds_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], end: str, quoted: bool, mark: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    rows = [("", "first", "1"), *rows]
    numbers, expected = [], []
    with io.StringIO(newline="") as text:
        python_csv.writer(text, lineterminator=end).writerow(["note", "prompt", "answer"])
        for row in rows:
            numbers.append(len(lines_in(text.getvalue().encode())) + 1)
            ends = {"\r", "\n"} & {*"".join(row)}
            quoting = python_csv.QUOTE_ALL if quoted or ends else python_csv.QUOTE_MINIMAL
            python_csv.writer(text, lineterminator=end, quoting=quoting).writerow(row)
        path.write_text("\ufeff" * mark + text.getvalue(), encoding="utf-8", newline="")
    for number, (_, prompt, answer) in zip(numbers, rows, strict=True):
        if prompt and answer and not {"\r", "\n"} & {*prompt, *answer} and "=" not in prompt:
            expected.append((number, f"{prompt}={answer}"))
    contents = read_file(str(path), "=")
    assert list(zip(contents.numbers.tolist(), held(contents), strict=True)) == expected
    assert sum(len(trouble.numbers) for trouble in contents.troubles) == len(rows) - len(expected)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_rows_of_a_csv_file_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("popgpt.data.own_lines._BLOCK", block)
    path = tmp_path / "lines.csv"
    path.write_bytes(b'\nnote,prompt,answer\n"x\ny",a,1\n\nn,b,2,3\nn,c\n,\xff,4\n,"d ""e"" ",5\n,f,')
    contents = read_file(str(path), "=")
    assert held(contents) == ["a=1", 'd "e" =5']
    assert contents.numbers.tolist() == [3, 9]
    assert contents.blank == 1
    assert [str(trouble) for trouble in contents.troubles] == [
        "2 without just 3 columns (lines 6, 7)",
        "1 that are not UTF-8 (line 8)",
        "1 with an empty answer (line 10)",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no lines in it"),
        (b"\n\r\n", "no lines in it"),
        (b"prompt,answer\n", "no lines in it"),
        (b'prompt,answer\na,1\nb,"2\nc,3\n', "line 3: not CSV: unexpected end of data"),
        (b'prompt,answer\na,1\n"b"x,2\n', "line 3: not CSV: "),
        (b"prompt;answer\na;1\n", "no column 'prompt'; its columns are 'prompt;answer'"),
        (b"\x1b[31m\n1\n", r"no column 'prompt'; its columns are '\x1b[31m'"),
        (b"\xff\xfep\x00", "the text is UTF-16"),
    ],
)
def test_what_is_no_csv_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "lines.csv"
    path.write_bytes(data)
    with pytest.raises(UserError) as refused:
        read_file(str(path), "=")
    assert str(refused.value).startswith(f"{path}: {message}")


def parquet_of(folder: Path, answers: pa.Array) -> Path:
    path = folder / "lines.parquet"
    prompts = [f"p{number}" for number in range(len(answers))]
    parquet.write_table(pa.table({"prompt": prompts, "answer": answers}), path)
    return path


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        (pa.array([2**63 - 1, -(2**63), 2**53 + 1]), ["9223372036854775807", "-9223372036854775808", f"{2**53 + 1}"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([-1, 7], pa.int8()), ["-1", "7"]),
        (pa.array([Decimal("1.5"), Decimal("-0.25"), Decimal(3)], pa.decimal128(9, 2)), ["1.50", "-0.25", "3.00"]),
        (pa.array([Decimal("1E-20")], pa.decimal128(30, 25)), ["0.0000000000000000000100000"]),
        (pa.array([Decimal(10) ** 60], pa.decimal256(70, 0)), [f"{10**60}"]),
        (pa.array(["x", "\ufeffé"], pa.large_string()), ["x", "\ufeffé"]),
        (pa.array(["nan", "1e5", "-0"]), ["nan", "1e5", "-0"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([5, 6, 5]).dictionary_encode(), ["5", "6", "5"]),
        (pa.array(["é".encode()]), ["é"]),
        (pa.array(["x", "y"], pa.string_view()), ["x", "y"]),
    ],
)
def test_values_of_parquet_have_one_exact_text(tmp_path: Path, answers: pa.Array, shown: list[str]) -> None:
    contents = read_file(str(parquet_of(tmp_path, answers)), "=")
    assert held(contents) == [f"p{number}={text}" for number, text in enumerate(shown)]


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (pa.array([1.0, float("nan")]), "double, which are not exact"),
        (pa.array([1.5, 2.0], pa.float32()), "float, which are not exact"),
        (pa.array([1.5]).dictionary_encode(), "double, which are not exact"),
        (pa.array([True, False]), "bool"),
        (pa.array([0], pa.date32()), "date32"),
        (pa.array([0], pa.timestamp("ns", "Asia/Tokyo")), "timestamp"),
        (pa.array([0], pa.duration("s")), "duration"),
        (pa.array([["1"]]), "list"),
        (pa.array([{"\x1b": "1"}]), "struct"),
        (pa.array([b"12"], pa.binary(2)), "fixed_size_binary"),
    ],
)
def test_values_of_parquet_without_are_refused(tmp_path: Path, answers: pa.Array, kind: str) -> None:
    path = parquet_of(tmp_path, answers)
    with pytest.raises(UserError) as refused:
        read_file(str(path), "=")
    assert str(refused.value) == (
        f"{path}: column 'answer' holds values of type {kind}: store it as text, integers or decimals"
    )


def test_rows_of_parquet_are_numbered_as_rows(tmp_path: Path) -> None:
    path = parquet_of(tmp_path, pa.array(["1", None, "2\r", "3\n", "4", b"\xff"], pa.binary()))
    assert [str(trouble) for trouble in read_file(str(path), "=").troubles] == [
        "1 with no prompt or no answer (row 2)",
        "2 with a newline in a column (rows 3, 4)",
        "1 that are not UTF-8 (row 6)",
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12")), min_size=1, max_size=12))
def test_repeats_and_conflicts_are_found(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = write(tmp_path_factory.getbasetemp(), "".join(f"{prompt}={answer}\n" for prompt, answer in pairs))
    repeats = find_repeats(read_file(str(path), "="), "=")
    answers: dict[str, list[str]] = {}
    for prompt, answer in pairs:
        answers.setdefault(prompt, [])
        answers[prompt] += [] if answer in answers[prompt] else [answer]
    expected = sorted(
        [pairs.index((prompt, known[0])) + 1, pairs.index((prompt, known[1])) + 1]
        for prompt, known in answers.items()
        if len(known) > 1
    )
    assert repeats.lines == len(pairs) - len(set(pairs))
    assert repeats.conflicts.tolist() == expected


PIECES = st.sampled_from(
    [
        *(b"=", b"==", b"\n", b"\r\n", b"\r", b"\0", b"\x1a", b"\x85", b"a", b"1", b"a=1\n", b'"', b","),
        *(b"\xff", b"\xc3", b"\xc3\xa9", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80"),
        *(b"x" * 300, b"prompt,answer\n"),
    ]
)
HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.lists(PIECES, max_size=40).map(b"".join),
    st.lists(st.tuples(PIECES, PIECES).map(b"=".join), max_size=30).map(b"\n".join),
)


def attack(folder: Path, data: bytes, suffix: str, separator: str, drop: bool) -> None:
    """Whatever is in the file: a dataset that holds its lines, or one line of complaint and nothing written."""
    path = folder / f"lines{suffix}"
    path.write_bytes(data)
    name = folder / "data"
    arguments = ["--from-text", str(path), "--dataset", "own", "--data-dir", str(name), "--separator", separator]
    complaint = ""
    try:
        prepare.main([*arguments, "--force", *(["--drop-bad"] if drop else [])])
    except UserError as error:
        complaint = str(error)
    assert "\n" not in complaint
    if not complaint:
        dataset = open_dataset(name / "own")
        held = [line for split in SPLITS for line in dataset.split(split).lines()]
        assert dataset.meta.overlaps == 0
        if suffix == ".txt":
            kept = [line for line in lines_in(data) if usable(line, separator)]
            assert Counter(held) == Counter(kept)
    assert sorted(entry.name for entry in name.glob("*") if entry.name != "own") in ([], [".own.lock"])


def usable(line: str, separator: str) -> bool:
    prompt, found, answer = line.partition(separator)
    return bool(prompt and found and answer) and not any("\udc80" <= character <= "\udcff" for character in line)


SUFFIX = st.sampled_from([".txt", ".txt", ".txt", ".csv", ".parquet"])
SEPARATOR = st.sampled_from(["=", "=", "=", "é", "\0", " "])
UNDISTURBED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=200, deadline=None, suppress_health_check=UNDISTURBED)
@given(HOSTILE, SUFFIX, SEPARATOR, st.booleans())
def test_hostile_files(tmp_path: Path, data: bytes, suffix: str, separator: str, drop: bool) -> None:
    attack(tmp_path, data, suffix, separator, drop)


@pytest.mark.soak
@settings(max_examples=10_000, deadline=None, derandomize=False, suppress_health_check=UNDISTURBED)
@given(HOSTILE, SUFFIX, SEPARATOR, st.booleans())
def test_ten_thousand_hostile_files(tmp_path: Path, data: bytes, suffix: str, separator: str, drop: bool) -> None:
    attack(tmp_path, data, suffix, separator, drop)


def test_a_shipped_task_of_nothing_but_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from popgpt.tasks import dates

    dates.main()
    made = capsys.readouterr().out.splitlines()[43_886:43_892]
    assert made[2] == "29 February 2020=2020-02-29"
    assert prepared(write(tmp_path, "\n".join(made))) == Counter(made)
    assert np.sum(list(open_dataset(tmp_path / "data" / "own").meta.lines.values())) == 6
