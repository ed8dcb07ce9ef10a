"""Anybody's file: what it holds comes through to the letter, what it can't hold is named, nothing escapes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from popgpt import prepare
from popgpt.config import UserError
from popgpt.data.dataset import open_dataset
from popgpt.data.files import find_repeats, read_file
from popgpt.data.meta import SPLITS


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
        "\ufeffa=1\nb=2\nc=3\n",
        "\n\na=1\n\nb=2\n\r\nc=3\n\n",
    ],
)
def test_line_ends_marks_and_blank_lines_are_handled(tmp_path: Path, data: str) -> None:
    assert prepared(write(tmp_path, data)) == Counter(["a=1", "b=2", "c=3"])


def test_any_alphabet_and_several_separators(tmp_path: Path) -> None:
    lines = ["straße→1", "😀😀→→", "a→b→c", "\x00\x0b\x85\u2028→\x1f", "日本→語"]
    assert prepared(write(tmp_path, "\n".join(lines)), "--separator", "→") == Counter(lines)
    dataset = open_dataset(tmp_path / "data" / "own")
    assert {*"".join(lines), "\n"} == {*dataset.meta.characters}
    assert dataset.meta.longest_line == 8
    prompts = ["a", "a→b", "日本", ""]
    assert sum(dataset.split(split).contains(prompts).astype(int) for split in SPLITS).tolist() == [1, 0, 1, 0]


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
            text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
            lines = (line.removesuffix("\r") for line in (text + "\n").split("\n"))
            kept = [line for line in lines if usable(line, separator)]
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


def test_a_shipped_task_of_nothing_but_lines(tmp_path: Path) -> None:
    from datetime import date

    from popgpt.data.dates import lines

    made = list(lines(date(2020, 2, 27), date(2020, 3, 3)))
    assert made[2] == "29 February 2020=2020-02-29"
    assert prepared(write(tmp_path, "\n".join(made))) == Counter(made)
    assert np.sum(list(open_dataset(tmp_path / "data" / "own").meta.lines.values())) == 6
