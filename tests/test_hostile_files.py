"""Mutated files of a run's and a sweep's folder: each command that reads them goes on, or says what is wrong."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from popgpt import evaluate, report, sample, train, tune
from popgpt.cluster import session
from popgpt.data.dataset import ensure_dataset
from popgpt.storage.folder import Folder
from popgpt.sweep import stored
from popgpt.sweep.asha import scheduler
from popgpt.sweep.draws import sample as draw
from popgpt.sweep.record import Record
from popgpt.sweep.space import load_sweep
from popgpt.sweep.tracker import trial_config
from popgpt.text.errors import UserError
from popgpt.training.folder import read_metrics
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.conftest import TINY

SECONDS = 2.0
RUN = ("metrics.jsonl", "result.json", "config.yaml", "ckpt.pt", "state-2.pt", "state-4.pt")
SWEEP = ("sweep.json", "sweep.json", "events.jsonl", "events.jsonl", "trials/0000/metrics.jsonl")
LEAVES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    1e308,
    float("nan"),
    "",
    "x",
    "\x1b[31m\n",
    [],
    {},
    [[]],
    "9" * 999,
)


class ReachedRay(BaseException):
    """What was read is taken: from here on it is a sweep that runs."""


def mutated(content: bytes, chance: random.Random) -> bytes:
    """`content` with something wrong: its bytes, or, where it is JSON, its structure."""
    kind = chance.randrange(10)
    place = chance.randrange(len(content) or 1)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(chance.randrange(256) for _ in range(4)) + content[place + 4 :]
    if kind == 2:
        return chance.choice([b"", b"\n", b"null\n", b"[]\n", b"\xff\xfe\n", b"[" * 99_999, b'{"a":' * 9_999 + b"\n"])
    lines = content.split(b"\n")
    number = chance.randrange(len(lines))
    try:
        return json.dumps(mutated_value(json.loads(content), chance)).encode()
    except ValueError:
        pass
    try:
        lines[number] = json.dumps(mutated_value(json.loads(lines[number]), chance)).encode()
    except ValueError:
        lines[number] = chance.choice([b"", b"x", lines[number][: len(lines[number]) // 2], lines[number] * 2])
    return b"\n".join(lines)


def mutated_value(value: Any, chance: random.Random) -> Any:
    """A JSON value with one part, anywhere in it, gone or another."""
    if not value or not isinstance(value, dict | list) or chance.random() < 0.15:
        return chance.choice(LEAVES)
    key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if chance.random() < 0.15:
        del value[key]
    else:
        value[key] = mutated_value(value[key], chance)
    return value


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in `run` and a sweep that was killed in `sweep`, both of real trainings."""
    here = tmp_path_factory.mktemp("sound")
    base = {**TINY, "data_dir": str(here / "data"), "out_dir": str(here / "run")}
    (here / "base.yaml").write_text(yaml.safe_dump(base))
    space = {"learning_rate": {"loguniform": [1e-3, 1e-1]}, "batch_size": {"choice": [2, 4]}}
    asha = {"grace_period": 2, "reduction_factor": 2}
    file = {"config": "base.yaml", "num_samples": 3, "space": space, "asha": asha, "finalists": 1, "finalist_seeds": 1}
    (here / "space.yaml").write_text(yaml.safe_dump({**file, "out_dir": str(here / "sweep")}))
    assert train.main([str(here / "base.yaml"), "--local"]) == 0
    sweep = load_sweep(here / "space.yaml")
    record, out_dir, judge = Record(sweep, draw(sweep)), here / "sweep", scheduler(sweep)
    assert judge
    out_dir.mkdir()
    record.asha = judge.state()
    record.write(out_dir)
    for name in record.trials:
        config = trial_config(record, out_dir, name)
        fit(config, ensure_dataset(config), World(torch.device("cpu")))
        judge.add(name)
        first, last = read_metrics(Folder(config.out_dir))[1::2]
        for event, rows in (("started", []), ("reported", [first]), ("reported", [last])):
            if rows:
                judge.judge(name, rows[0])
            record.take(name, event, {"rows": rows}, judge.reason(name))
            record.note(out_dir, name, rows, judge.changes())
    return here


def commands(here: Path) -> dict[str, Callable[[], object]]:
    """What reads the files of a run or of a sweep."""
    base = [str(here / "base.yaml"), "--local", f"out_dir={here / 'run'}"]
    space = [str(here / "space.yaml"), f"out_dir={here / 'sweep'}", "--resume"]
    return {
        "train": lambda: train.main([*base, "init_from=resume", "max_iters=5"]),
        "init_from": lambda: train.main([*base, f"init_from={here / 'run'}", f"out_dir={here / 'new'}", "max_iters=1"]),
        "evaluate": lambda: evaluate.main([str(here / "run"), "--json"]),
        "sample": lambda: sample.main([str(here / "run"), "1+2="]),
        "report": lambda: report.main([str(here / "sweep")]),
        "resume": lambda: tune.main(space),
    }


def check(sound: Path, here: Path, seed: int) -> None:
    """Mutate a file by a seed, and have a command read it."""
    chance = random.Random(seed)
    of_run = chance.random() < 0.5
    kind = "run" if of_run else "sweep"
    file = here / kind / chance.choice(RUN if of_run else SWEEP)
    command = chance.choice(["train", "init_from", "evaluate", "sample"] if of_run else ["report", "resume"])
    for name in ("run", "sweep", "new"):
        shutil.rmtree(here / name, ignore_errors=True)
    shutil.copytree(sound / kind, here / kind)
    file.write_bytes(mutated(file.read_bytes(), chance))
    started = time.process_time()
    try:
        commands(here)[command]()
    except (UserError, OSError) as error:
        said = str(error)
        assert said, seed
        assert all(letter.isprintable() or letter == "\n" for letter in said), (seed, said)
        assert len(said) < 2000, (seed, said)
    except ReachedRay:
        pass
    except Exception as error:
        raise AssertionError(f"seed {seed}: {command} of {file.name}: {type(error).__name__}: {error}") from error
    assert time.process_time() - started < SECONDS, (seed, command, file.name)


@pytest.fixture
def here(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to put mutated files in; no command starts Ray."""

    def reached(fits: object) -> None:
        raise ReachedRay

    monkeypatch.setattr(session, "connected", reached)
    for name in ("base.yaml", "space.yaml"):
        shutil.copy(sound / name, tmp_path)
    return tmp_path


def test_what_is_sound_is_taken(sound: Path, here: Path) -> None:
    for kind in ("run", "sweep"):
        shutil.copytree(sound / kind, here / kind)
    assert len(stored.read(here / "sweep")["trials"]) == 3
    for name, command in commands(here).items():
        if name == "resume":
            with pytest.raises(ReachedRay):
                command()
        else:
            command()


def test_some_mutated_files_end_no_command_badly(sound: Path, here: Path) -> None:
    for seed in range(60):
        check(sound, here, seed)


@pytest.mark.soak
def test_a_thousand_mutated_files_end_no_command_badly(sound: Path, here: Path) -> None:
    for seed in range(1000):
        check(sound, here, seed)
