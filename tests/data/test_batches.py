"""Rows against a slow reference; every line once an epoch; order a pure function of seed, epoch and row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popgpt.config import make_config
from popgpt.data import building
from popgpt.data.batches import (
    IGNORE_INDEX,
    Batch,
    RowParameters,
    Rows,
    count_left_out,
    describe_too_long,
    make_rows,
)
from popgpt.data.dataset import Dataset, open_dataset
from popgpt.data.own_lines import TextLines
from popgpt.data.packing import pack
from popgpt.lines.vocabulary import Vocabulary
from popgpt.tasks.views import Plain
from popgpt.text.errors import UserError
from tests.reference import aligned_row, text_of, window_row

Make = Callable[..., Dataset]
MODES = {"isolate": st.booleans(), "mask": st.sampled_from([None, "="]), "mask_per_line": st.booleans()}
LINE = st.text(st.sampled_from("012+é=→"), min_size=1, max_size=9).filter(lambda line: "=" in line)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dataset]:
    def make(lines: list[str], shard_lines: int = 10, held_out: int = 0) -> Dataset:
        path = tmp_path_factory.mktemp("data") / "lines"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(building, "SHARD_LINES", shard_lines)
            plan = building.Plan("lines", "text", {}, "=", "", 1, held_out, held_out)
            building.build_dataset(path, TextLines(text_of(lines), "=", 1), plan)
        return open_dataset(path)

    return make


def rows_of(dataset: Dataset, block_size: int, **options: Any) -> Rows:
    given: dict[str, Any] = {"align_to_lines": True, "isolate_lines": True, "mask_before_token": "="}
    given |= {"mask_per_line": True, "seed": 7, **options}
    parameters = RowParameters(block_size=block_size, **given)
    return Rows(dataset.split("train"), Plain(dataset.meta.characters.replace("\n", ""), "=", block_size), parameters)


def test_another_packages_view_that_keeps_lines_gives_the_rows_of_the_plain_one(make: Make) -> None:
    class Foreign:
        def __init__(self, plain: Plain) -> None:
            self._plain = plain

        def __getattr__(self, name: str) -> Any:
            return getattr(self._plain, name)

        def lengths(self, text: Any) -> Any:
            raise AssertionError("the lengths of the shards are known")

    dataset, parameters = make(["1+1=2", "2+2=0", "0+0=0"]), RowParameters(12, False, False, "=", True, 7)
    plain = Plain("012+=", "=", 12)
    foreign: Any = Foreign(plain)
    known, found = (Rows(dataset.split("train"), view, parameters) for view in (plain, foreign))
    assert found.weights(found.at(np.arange(3))) is None
    for one, other in zip(known.at(np.arange(3)), found.at(np.arange(3)), strict=True):
        assert (one == other).all()


def shown(batch: Batch, vocabulary: Vocabulary) -> list[list[tuple[str, str, int, int]]]:
    """The rows of a batch as the reference gives them."""
    characters = vocabulary.characters
    return [
        [
            (characters[token], characters[target] if target != IGNORE_INDEX else "", int(segment), int(position))
            for token, target, segment, position in zip(*arrays, strict=True)
        ]
        for arrays in zip(*batch, strict=True)
    ]


def lines_in(row: list[tuple[str, str, int, int]], isolate: bool) -> list[str]:
    """The complete lines of an aligned row."""
    real = [place for place in row if place[2] >= 0]
    if not isolate:
        return "".join(place[0] for place in real).split("\n")[:-1]
    return ["".join(p[0] for p in real if p[2] == number) for number in range(real[-1][2] + 1)]


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINE, min_size=1, max_size=40), block_size=st.integers(10, 30), **MODES)
def test_aligned_rows_are_those_of_the_reference(
    make: Make,
    lines: list[str],
    block_size: int,
    isolate: bool,
    mask: str | None,
    mask_per_line: bool,
) -> None:
    dataset = make(lines)
    rows = rows_of(dataset, block_size, isolate_lines=isolate, mask_before_token=mask, mask_per_line=mask_per_line)
    for epoch in range(2):
        numbers = np.arange(rows.rows_per_epoch) + epoch * rows.rows_per_epoch
        batch = rows.at(numbers)
        found = []
        for row in shown(batch, dataset.meta.vocabulary):
            held = lines_in(row, isolate)
            assert row == aligned_row(held, block_size, isolate=isolate, mask=mask, mask_per_line=mask_per_line)
            found += held
        assert Counter(found) == Counter(lines)
        assert rows.counts(batch) == (len(lines), sum(map(len, lines)) + (0 if isolate else len(lines)))


def test_each_epoch_and_seed_has_an_order_of_its_own(make: Make) -> None:
    dataset = make([f"{number:03d}={number % 7}" for number in range(600)], shard_lines=600)

    def order(seed: int, epoch: int) -> list[int]:
        rows = rows_of(dataset, 25, seed=seed)
        batch = rows.at(np.arange(rows.rows_per_epoch) + epoch * rows.rows_per_epoch)
        held = [lines_in(row, isolate=True) for row in shown(batch, dataset.meta.vocabulary)]
        return [int(line[:3]) for lines in held for line in lines]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert order(0, 0) == orders[0]
    for number, one in enumerate(orders):
        assert sorted(one) == list(range(600))
        for other in [list(range(600)), *orders[:number]]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 8


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINE, min_size=1, max_size=40), block_size=st.integers(2, 30), **MODES)
def test_windows_are_those_of_the_reference(
    make: Make,
    lines: list[str],
    block_size: int,
    isolate: bool,
    mask: str | None,
    mask_per_line: bool,
) -> None:
    dataset = make(lines, shard_lines=100)
    stream = "".join(line + "\n" for line in dataset.split("train").lines())
    if block_size > len(stream):
        return
    options = {"isolate_lines": isolate, "mask_before_token": mask, "mask_per_line": mask_per_line}
    rows = rows_of(dataset, block_size, align_to_lines=False, **options)
    found = shown(rows.at(np.arange(rows.rows_per_epoch)), dataset.meta.vocabulary)
    assert rows.rows_per_epoch == len(stream) // block_size
    wanted: dict[str, list[Any]] = {}
    for begin in range(len(stream)):
        row = window_row(stream, begin, block_size, isolate=isolate, mask=mask, mask_per_line=mask_per_line)
        wanted.setdefault("".join(place[0] for place in row), []).append(row)
    for row in found:
        assert row in wanted["".join(place[0] for place in row)]


def test_windows_partition_the_stream(make: Make) -> None:
    dataset = make([f"{number}=x" for number in range(1000, 1100)], shard_lines=1000)
    rows = rows_of(dataset, 7, align_to_lines=False, mask_before_token=None)
    stream = "".join(line + "\n" for line in dataset.split("train").lines())
    for epoch in range(3):
        batch = rows.at(np.arange(rows.rows_per_epoch) + epoch * rows.rows_per_epoch)
        texts = [dataset.meta.vocabulary.decode(row) for row in batch.tokens]
        places = sorted((stream * 2).index(text) for text in texts)
        covered = {place % len(stream) for begin in places for place in range(begin, begin + 7)}
        assert len(covered) == 7 * len(texts) == 700


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
def test_lines_too_long_are_told_and_counted_as_rows_leave_them_out(make: Make, aligned: bool, isolated: bool) -> None:
    dataset = make([f"{number}={'1' * (number % 9 + 1)}" for number in range(1000, 1200)], held_out=40)
    whole = {split: dataset.split(split).lines() for split in ("train", "val", "test")}
    for block_size in (9, 13, 14, 15):
        values = {"block_size": block_size, "align_to_lines": aligned, "isolate_lines": isolated}
        config = make_config(values, "here")
        rows = {split: make_rows(config, dataset, split, 0).lines_left_out for split in ("train", "val")}
        assert count_left_out(config, dataset.meta) == rows
        room = block_size - (aligned and not isolated)
        long = {split: sum(len(line) > room for line in lines) for split, lines in whole.items()}
        assert rows == ({"train": long["train"], "val": long["val"]} if aligned else {"train": 0, "val": 0})
        told = describe_too_long(config, dataset.meta, list(whole))
        for split, lines in whole.items():
            concerned = long[split] > 0 and (aligned or split != "train")
            assert (f"{long[split]} of {len(lines)} lines of {split} " in told) == concerned


def test_what_is_said_of_lines_too_long(make: Make) -> None:
    meta = make(["1=1", "22222=2", "3=3", "44444444=4", "5=5", "6=6"], held_out=2).meta
    assert [meta.count_longer(split, 6) for split in ("train", "val", "test")] == [1, 0, 1]
    config = make_config({"block_size": 6}, "here")
    windows = config.model_copy(update={"align_to_lines": False})
    together = make_config({"block_size": 7, "isolate_lines": False}, "here")
    train, test = "1 of 2 lines of train", "1 of 2 lines of test"
    loss, wrong = "left out of the loss and token accuracy", "counted as wrong by exact match"
    both = f"{train} and {test} are too long for block_size"
    assert describe_too_long(config, meta, ["train", "test"]) == (
        f"{both}=6: left out of training, {loss}, {wrong}; block_size=10 holds all"
    )
    assert describe_too_long(together, meta, ["train", "test"]) == (
        f"{both}=7: left out of training, {loss}, {wrong}; block_size=11 holds all"
    )
    assert describe_too_long(config, meta) == (
        f"{train} are too long for block_size=6: left out of training; block_size=10 holds all"
    )
    assert describe_too_long(windows, meta, ["train", "test"]) == (
        f"{test} are too long for block_size=6: {wrong}; block_size=10 holds all"
    )
    assert describe_too_long(config, meta, ["val"]) == ""


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("isolate", [True, False])
def test_any_rows_can_be_had_alone_and_in_any_order(make: Make, aligned: bool, isolate: bool) -> None:
    dataset = make([f"{number}=é" for number in range(100)])
    rows = rows_of(dataset, 12, align_to_lines=aligned, isolate_lines=isolate)
    numbers = np.arange(3 * rows.rows_per_epoch)
    whole = rows.at(numbers)
    some = np.random.default_rng(0).permutation(numbers)[:30]
    for whole_array, part in zip(whole, rows.at(some), strict=True):
        assert np.array_equal(whole_array[some], part)
    again = rows_of(dataset, 12, align_to_lines=aligned, isolate_lines=isolate)
    assert all(
        np.array_equal(a, b[1:3]) for a, b in zip(again.at(np.arange(19, 21)), rows.at(np.arange(18, 22)), strict=True)
    )
    other = rows_of(dataset, 12, align_to_lines=aligned, isolate_lines=isolate, seed=8).at(numbers)
    assert not np.array_equal(other.tokens, whole.tokens)


def test_no_rows_make_an_empty_batch(make: Make) -> None:
    rows = rows_of(make(["1=2"]), 8)
    assert [array.shape for array in rows.at(np.arange(0))] == [(0, 8)] * 4


def test_a_mask_to_the_position(make: Make) -> None:
    dataset = make(["1+2=3"])
    for options, expected in (
        ({}, "...3\n..."),
        ({"mask_before_token": None}, "+2=3\n..."),
        ({"isolate_lines": False}, "...3\n..."),
    ):
        batch = rows_of(dataset, 8, **options).at(np.array([0]))
        text = "".join(dataset.meta.characters[t] if t >= 0 else "." for t in batch.targets[0])
        assert text == expected


def test_lines_too_long_are_left_out_and_counted(make: Make) -> None:
    dataset = make(["1=1", "22222=2", "3=3"])
    rows = rows_of(dataset, 6)
    assert rows.lines_left_out == 1
    assert "5=" not in dataset.meta.vocabulary.decode(rows.at(np.arange(rows.rows_per_epoch)).tokens.ravel())
    assert rows_of(dataset, 7).lines_left_out == 0
    assert rows_of(dataset, 7, isolate_lines=False).lines_left_out == 1
    with pytest.raises(UserError, match=r"shortest takes 3, all fit from block_size=7 on"):
        rows_of(dataset, 2)
    with pytest.raises(UserError, match=r"at most 16 would do"):
        rows_of(dataset, 17, align_to_lines=False)


@pytest.mark.parametrize("each", [1, pytest.param(4, marks=pytest.mark.soak)])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("lines", [[f"{n}=7" for n in range(40)], [f"{n}=é" for n in range(40)]])
def test_a_byte_that_was_altered_is_named_or_is_another_character(
    make: Make, lines: list[str], aligned: bool, each: int
) -> None:
    """Each byte is altered to so many of four values, by turns."""
    path = make(lines).path / "train.arrow"
    intact = path.read_bytes()
    text = intact.index(b"7=")
    said = Counter[str]()
    places = [*range(0, len(intact), 97), *range(text, text + 50), *range(text - 200, text)]
    for number, place in enumerate(places):
        for value in [(0x0A, 0x58, 0xFF, 0x80)[(number + more) % 4] for more in range(each)]:
            path.write_bytes(intact[:place] + bytes([value]) + intact[place + 1 :])
            try:
                rows = rows_of(open_dataset(path.parent), 12, align_to_lines=aligned)
                rows.at(np.arange(2 * rows.rows_per_epoch))
                said["read"] += 1
            except UserError as error:
                said[str(error).replace(str(path), "")] += 1
    path.write_bytes(intact)
    assert said[": damaged, prepare it again"] > 50
    assert said["read"]


def test_a_mask_that_is_in_no_line_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match=r"mask_before_token=':' is in no line.*separator of this dataset is '='"):
        rows_of(make(["1=1"]), 8, mask_before_token=":")
    with pytest.raises(UserError, match="would mask every line"):
        rows_of(make(["1=1"]), 8, mask_before_token="\n")


@given(st.dictionaries(st.integers(1, 70), st.integers(1, 500), min_size=1), st.integers(1, 64))
def test_packing_holds_each_line_once_in_rows_that_fit(counts: dict[int, int], room: int) -> None:
    held: Counter[int] = Counter()
    for pattern in pack(counts, room):
        assert 0 < sum(pattern.lengths) <= room
        for length in pattern.lengths:
            held[length] += pattern.rows
    assert held == {length: count for length, count in counts.items() if length <= room}


def test_packing_wastes_little(calculator_lengths: dict[int, int]) -> None:
    for extra in (0, 1):
        counts = {length + extra: count for length, count in calculator_lengths.items()}
        rows = sum(pattern.rows for pattern in pack(counts, 64))
        assert sum(length * count for length, count in counts.items()) / (64 * rows) > 0.99


@pytest.fixture
def calculator_lengths() -> dict[int, int]:
    from popgpt.tasks.calculator import Calculator

    lengths = Calculator().source(50_000, 1).text(np.arange(50_000)).lengths
    return {int(length): int(count) for length, count in zip(*np.unique(lengths, return_counts=True), strict=True)}


def test_packing_of_very_many_lengths_is_quick_and_tight() -> None:
    counts = dict.fromkeys(range(1, 3000), 20)
    patterns = pack(counts, 4096)
    assert sum(length * count for length, count in counts.items()) / (4096 * sum(p.rows for p in patterns)) > 0.99


def test_the_mask_follows_the_separator_of_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "colons"
    lines = [f"{number}:y={number % 7}" for number in range(20)]
    plan = building.Plan("colons", "text", {}, ":", "", 1, 2, 2)
    building.build_dataset(path, TextLines(text_of(lines), ":", 1), plan)
    dataset = open_dataset(path)

    def learned(**given: Any) -> Batch:
        return make_rows(make_config({"block_size": 8, **given}), dataset, "train", 7).at(np.arange(3))

    assert np.array_equal(learned().targets, learned(mask_before_token=":").targets)
    assert (learned(mask_before_token=None).targets != IGNORE_INDEX).sum() > (learned().targets != IGNORE_INDEX).sum()
    wrong = r"^mask_before_token='=' is not the separator of dataset=colons, ':': leave it out, or give null [^\n]*$"
    with pytest.raises(UserError, match=wrong):
        learned(mask_before_token="=")
