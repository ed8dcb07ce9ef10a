"""Whatever a config, its overrides or a search space says, it is read, or refused in words, soon."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from popgpt import explain
from popgpt.config import load_config
from popgpt.sweep.draws import sample
from popgpt.sweep.space import load_sweep
from popgpt.text.errors import UserError
from tests import hostile

LONGEST_LINE, SECONDS = 600, 2.0


def read(path: Path, words: list[str], as_space: bool) -> None:
    """Read as the entry points do."""
    if as_space:
        sample(load_sweep(path, words))
        return
    load_config(path, words)
    explain.read(str(path), words)


def complaints(folder: Path, number: int) -> tuple[bool, list[str]]:
    """Whether the text of this number is refused, and what is wrong with how; nothing where all is as it should be."""
    rng, as_space = random.Random(number), number % 2 == 0
    path = folder / "given.yaml"
    path.write_text(hostile.space(rng) if as_space else hostile.config(rng), "utf-8", "surrogatepass", newline="")
    words, wrong, refused = hostile.overrides(rng), [], False
    begun = time.process_time()
    try:
        read(path, words, as_space)
    except UserError as error:
        refused = True
        lines = str(error).split("\n")
        wrong += [f"not printable: {line!r}" for line in lines if not line.isprintable()]
        wrong += [f"{len(line)} characters: {line}" for line in lines if len(line) > LONGEST_LINE]
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {str(error)[:300]}")
    spent = time.process_time() - begun
    wrong += [f"took {spent:.1f} s"] if spent > SECONDS else []
    return refused, [f"{number}: {each}" for each in wrong]


def check(folder: Path, numbers: range) -> None:
    (folder / "base.yaml").write_text(hostile.base())
    found = [complaints(folder, number) for number in numbers]
    assert [each for _, wrong in found for each in wrong] == []
    refused = sum(refused for refused, _ in found)
    assert len(numbers) * 0.1 < refused < len(numbers) * 0.98  # both happen


def test_a_sample_of_hostile_texts_is_read_or_refused_in_words(tmp_path: Path) -> None:
    check(tmp_path, range(300))


@pytest.mark.soak
def test_hostile_texts_are_read_or_refused_in_words(tmp_path: Path) -> None:
    check(tmp_path, range(10_000))


def test_a_refusal_is_told_by_explain_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "given.yaml").write_text("seed: 1\nd_model: '\\e[31m'\n" + "x" * 100 + ": 1\n")
    with pytest.raises(UserError) as refused:
        explain.main([str(tmp_path / "given.yaml")])
    assert [line.isprintable() for line in str(refused.value).split("\n")] == [True, True]


SLOW: dict[str, Any] = {
    "num_samples": "9" * 100,
    "seed": "9" * 400,
    "finalists": "9" * 100,
    "finalist_seeds": "9" * 100,
    "asha": "{brackets: 2000000000}",
}


@pytest.mark.parametrize("key", SLOW)
def test_a_number_that_is_too_large_is_refused_at_once(tmp_path: Path, key: str) -> None:
    (tmp_path / "base.yaml").write_text(hostile.base())
    text = f"config: base.yaml\n{key}: {SLOW[key]}\nspace: {{dropout: {{uniform: [0, 0.5]}}}}\n"
    (tmp_path / "given.yaml").write_text(text)
    begun = time.process_time()
    with pytest.raises(UserError, match=key):
        sample(load_sweep(tmp_path / "given.yaml"))
    assert time.process_time() - begun < SECONDS
