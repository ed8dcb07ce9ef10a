"""The dataset on disk: split by prompt, counted rightly, the same everywhere, and whole or not there at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.config import Config, make_config, merge
from popgpt.data import building
from popgpt.data.building import assign_splits, build_dataset, count_overlaps
from popgpt.data.dataset import dataset_path, ensure_dataset, open_dataset, plan_dataset
from popgpt.data.meta import SPLITS
from popgpt.lines.shuffle import mix
from popgpt.lines.text import kind_of, split_line
from popgpt.tasks.calculator import Calculator
from popgpt.text.errors import UserError

SMALL = {"train_lines": 3000, "val_lines": 200, "test_lines": 100}
FINGERPRINT = "4b596382fdf8586d2762e72e3a8dd914988c61262edee0190c31b9d83d943778"


def config_of(folder: Path, **values: Any) -> Config:
    return make_config({"data_dir": str(folder), **SMALL, **values})


def canonical(prompt: str) -> tuple[str, ...]:
    for sign in "+*":
        if sign in prompt:
            return (sign, *sorted(prompt.split(sign)))
    return (prompt,)


def test_counts_lengths_and_alphabet_are_those_of_the_lines(tmp_path: Path) -> None:
    dataset = ensure_dataset(config_of(tmp_path))
    meta = dataset.meta
    lines = {split: dataset.split(split).lines() for split in SPLITS}
    assert meta.lines == {"train": 3000, "val": 200, "test": 100}
    for split in SPLITS:
        assert len(dataset.split(split)) == len(lines[split]) == meta.lines[split]
        assert meta.lengths(split) == dict(sorted(Counter(map(len, lines[split])).items()))
        assert meta.by_kind[split] == Counter(kind_of(split_line(line, "=")[0], "+-*/") for line in lines[split])
        assert meta.characters_in[split] == Counter("".join(line + "\n" for line in lines[split]))
    whole = [line for split in SPLITS for line in lines[split]]
    assert meta.characters == "\n*+-./0123456789="
    assert meta.longest_answer == max(len(split_line(line, "=")[1]) for line in whole)
    assert (meta.separator, meta.symbols, meta.overlaps) == ("=", "+-*/", 0)


@pytest.mark.parametrize("lines", [3000, 1_990_000 // 100 - 300])
def test_no_prompt_and_no_other_form_of_it_is_in_two_splits(tmp_path: Path, lines: int) -> None:
    dataset = ensure_dataset(config_of(tmp_path, train_lines=lines, task={"operations": "+*", "decimals": 0}))
    prompts = {
        split: {canonical(split_line(line, "=")[0]) for line in dataset.split(split).lines()} for split in SPLITS
    }
    assert len(set.union(*prompts.values())) == sum(map(len, prompts.values()))
    assert [dataset.meta.lines[split] for split in SPLITS] == [lines, 200, 100]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(0, 60), st.integers(0, 60))
def test_splits_are_by_hash_and_meet_their_counts_where_they_can(groups: list[int], val: int, test: int) -> None:
    hashes = mix(np.array(groups, np.uint64))
    labels = assign_splits(hashes, val, test)
    assert count_overlaps(hashes, labels) == 0
    assert (labels == 1).sum() <= val
    assert (labels == 2).sum() <= test
    sizes = Counter(groups)
    if set(sizes.values()) == {1}:
        assert (labels == 1).sum() == min(val, len(groups))
        assert (labels == 2).sum() == min(test, len(groups) - (labels == 1).sum())
    reordered = np.random.default_rng(0).permutation(len(groups))
    assert np.array_equal(assign_splits(hashes[reordered], val, test), labels[reordered])


def test_overlaps_are_counted() -> None:
    hashes = np.array([5, 5, 6, 7, 7, 8, 8, 9], np.uint64)
    assert count_overlaps(hashes, np.array([0, 1, 0, 1, 2, 2, 2, 0], np.int8)) == 2


def test_a_dataset_is_the_same_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    first = ensure_dataset(config_of(tmp_path / "a"))
    second = ensure_dataset(config_of(tmp_path / "b", dataset="calculator_2"))
    assert first.meta.fingerprint == second.meta.fingerprint == FINGERPRINT
    assert first.split("train").lines() == second.split("train").lines()
    other = ensure_dataset(config_of(tmp_path / "c", data_seed=2))
    assert other.meta.fingerprint != first.meta.fingerprint


def test_shards_change_neither_lines_nor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ensure_dataset(config_of(tmp_path / "a")).split("train")
    monkeypatch.setattr(building, "SHARD_LINES", 700)
    monkeypatch.setattr(building, "SHARD_BYTES", 5000)
    monkeypatch.setattr(building, "_CHUNK", 123)
    parts = ensure_dataset(config_of(tmp_path / "b")).split("train")
    assert parts.shards > 5
    assert parts.lines() == whole.lines()
    assert parts.lines(650, 1500) == whole.lines()[650:1500]
    assert parts.lines(-3) == whole.lines()[-3:]
    prompts = ["nothing", *(line.split("=")[0] for line in whole.lines())]
    assert parts.contains(prompts, Calculator()).tolist() == [False] + [True] * 3000
    assert parts.contains([], Calculator()).tolist() == []


def test_another_config_is_refused_with_the_way_out(tmp_path: Path) -> None:
    ensure_dataset(config_of(tmp_path))
    for key, value, built in (("train_lines", 10, 3000), ("task.operations", "+", "'+-*/'"), ("task.decimals", 0, 1)):
        with pytest.raises(UserError) as error:
            ensure_dataset(config_of(tmp_path, **merge({}, {key: value})))
        assert f"was built with {key}={built}, now it is {key}={value!r}" in str(error.value)
        assert "data_dir or dataset" in str(error.value)
        assert "--force" in str(error.value)
    assert ensure_dataset(config_of(tmp_path, learning_rate=1.0, block_size=7)).meta.lines["train"] == 3000


def test_what_is_not_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such dataset.*--from-text FILE --dataset mine"):
        ensure_dataset(config_of(tmp_path, task="text", dataset="mine"))
    with pytest.raises(UserError, match="no such dataset"):
        open_dataset(tmp_path / "nothing")
    (tmp_path / "calculator").mkdir()
    with pytest.raises(UserError, match=r"train\.arrow is missing"):
        ensure_dataset(config_of(tmp_path))
    (tmp_path / "calculator" / "train.arrow").write_bytes(b"ARROW1" * 10)
    with pytest.raises(UserError, match="damaged"):
        ensure_dataset(config_of(tmp_path))
    with pa.OSFile(str(tmp_path / "calculator" / "train.arrow"), "wb") as file, pa.ipc.new_file(file, pa.schema([])):
        pass
    with pytest.raises(UserError, match="not a dataset of popgpt"):
        ensure_dataset(config_of(tmp_path))


def test_a_split_of_another_dataset_is_named(tmp_path: Path) -> None:
    dataset = ensure_dataset(config_of(tmp_path))
    other = ensure_dataset(config_of(tmp_path, dataset="calculator2", data_seed=2))
    (dataset.path / "val.arrow").write_bytes((other.path / "val.arrow").read_bytes())
    assert len(dataset.split("test")) == 100
    with pytest.raises(UserError, match=r"val\.arrow: not of the same dataset as train\.arrow"):
        dataset.split("val")


def test_a_schema_that_was_altered_is_named(tmp_path: Path) -> None:
    file = ensure_dataset(config_of(tmp_path)).path / "train.arrow"
    intact = file.read_bytes()
    for word in (b'"options": {', b'"characters": "', b'"name"'):
        file.write_bytes(intact.replace(word, b"\xff" + word[1:]))
        with pytest.raises(UserError, match="damaged, prepare the dataset again"):
            open_dataset(file.parent)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the dataset"):
        ensure_dataset(config_of(tmp_path / "file"))


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_seal", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ensure_dataset(config_of(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".calculator.lock"]


def write_config(folder: Path) -> Path:
    config = folder / "config.yaml"
    config.write_text(f"data_dir: {folder / 'data'}\n")
    return config


KILLED = """
import os, signal, sys
import pyarrow
from popgpt import prepare
from popgpt.terminal import program

awaited, opened = sys.argv.pop(1), pyarrow.OSFile

def begun(path, mode):
    file = opened(path, mode)
    if path.endswith(f"/.calculator.tmp/{awaited}"):
        file.write(b"ARROW1")
        os.kill(os.getpid(), signal.SIGKILL)
    return file

pyarrow.OSFile = begun
program.run(prepare.main)
"""


@pytest.mark.parametrize("awaited", ["train.part", "val.part", "train.arrow"])
@pytest.mark.parametrize("old", [False, True])
def test_a_killed_prepare_leaves_the_old_dataset_or_none(tmp_path: Path, awaited: str, old: bool) -> None:
    path = tmp_path / "data" / "calculator"
    if old:
        fingerprint = ensure_dataset(config_of(tmp_path / "data")).meta.fingerprint
    words = [sys.executable, "-c", KILLED, awaited, write_config(tmp_path), "train_lines=5000", "--force"]
    assert subprocess.run(words, timeout=600).returncode == -signal.SIGKILL
    assert (tmp_path / "data" / ".calculator.tmp" / awaited).read_bytes() == b"ARROW1"
    if old:
        assert open_dataset(path).meta.fingerprint == fingerprint
    else:
        assert not path.exists()
    config = config_of(tmp_path / "data", data_seed=3)
    build_dataset(path, *plan_dataset(config), overwrite=old)
    assert ensure_dataset(config).meta.lines["train"] == 3000
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".calculator.lock", "calculator"]


def test_who_builds_at_the_same_time_gets_one_dataset(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "popgpt.prepare", write_config(tmp_path), "train_lines=50000"]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out.split(b"fingerprint")[1].split()[0] for out, _ in outputs}) == 1
    assert dataset_path(config_of(tmp_path / "data")).exists()
