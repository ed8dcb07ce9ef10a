"""A run that is killed between any two of its changes to its folder goes on to what it would have come to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from popgpt.config import Config, make_config
from popgpt.data.dataset import ensure_dataset
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.runs import left
from tests.samples import sample_and_whole

Make = Callable[..., Config]
Change = tuple[str, str, int]  # what is done, to which file, for which time
CHANGES = {
    ("os.rename", "config.yaml"),
    ("open", "metrics.jsonl"),
    ("os.rename", "metrics.jsonl"),
    ("os.rename", "state-2.pt"),
    ("os.rename", "state-4.pt"),
    ("os.link", ".ckpt.pt"),
    ("os.rename", "ckpt.pt"),
    ("os.remove", "state-2.pt"),
    ("os.rename", "result.json"),
}
BEST_ONCE = {"max_iters": 6, "eval_interval": 2, "log_interval": 3}
BEST_ALWAYS = {"max_iters": 6, "eval_interval": 2, "log_interval": 2, "always_save_checkpoint": True}


class Watch:
    """Sees, as an audit hook, every change to a folder before it is made."""

    def __init__(self, out_dir: str, meet: Callable[[Change, str], None]):
        self._out_dir = out_dir
        self._meet = meet
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.link", "os.remove") or not isinstance(
            arguments[0], str | os.PathLike
        ):
            return
        path = Path(arguments[0])
        if str(path.parent) != self._out_dir or (event == "open" and not writes(arguments[2])):
            return
        what = (event, plain(Path(arguments[1] if event in ("os.rename", "os.link") else path).name))
        self._counts[what] += 1
        self._meet((*what, self._counts[what]), str(path))


def writes(flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def plain(name: str) -> str:
    """The name of a file, or of the unfinished one beside it, without the number of the process."""
    return name.removesuffix(f".{os.getpid()}")


def train(config: Config, meet: Callable[[Change, str], None] = lambda change, path: None) -> None:
    torch.set_num_threads(1)
    dataset = ensure_dataset(config)
    sys.addaudithook(Watch(config.out_dir, meet))
    fit(config, dataset, World(torch.device("cpu")))


def train_listing(values: dict[str, Any], changes: multiprocessing.SimpleQueue[Change]) -> None:
    """Train, and say each change as it comes."""
    train(make_config(values), lambda change, path: changes.put(change))


def train_until(values: dict[str, Any], fatal: Change | None, torn: bool) -> None:
    """Train, and die of SIGKILL before the change `fatal`; if `torn`, the file it is about is cut in the middle."""

    def meet(change: Change, path: str) -> None:
        if change == fatal:
            if torn:
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    train(make_config(values), meet)


def unfinished(change: Change) -> bool:
    """Whether the change is of a file that may be cut where a machine, not the process alone, stops."""
    return change[0] == "os.rename" and change[1] != "ckpt.pt"  # which is another name of a whole state


class Processes:
    """Runs functions each in a process of its own, forked from one that has imported all."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__])

    def run(self, function: Callable[..., None], *arguments: Any) -> int | None:
        """The exit code."""
        process = self.context.Process(target=function, args=arguments)
        process.start()
        process.join(120)
        process.kill()
        return process.exitcode

    def changes(self, config: Config) -> list[Change]:
        """What a run that nothing disturbs changes, in the order of its first time."""
        queue: multiprocessing.SimpleQueue[Change] = self.context.SimpleQueue()
        assert self.run(train_listing, config.model_dump(), queue) == 0
        found = []
        while not queue.empty():
            found.append(queue.get())
        return found


@pytest.mark.parametrize(
    ("kept", "files"), sample_and_whole([("best", "all"), ("always", "ckpt.pt")], [("always", "all")])
)
def test_a_kill_before_any_change_of_its_folder_changes_nothing(
    tiny: Make, tmp_path: Path, kept: str, files: str
) -> None:
    """The sample leaves out what both shapes of a run change in the same way."""
    shape, processes = {"best": BEST_ONCE, "always": BEST_ALWAYS}[kept], Processes()
    whole = tiny(**shape, out_dir=str(tmp_path / "whole"))
    ensure_dataset(whole)
    changes = processes.changes(whole)
    assert {(event, name) for event, name, _ in changes} >= CHANGES
    for number, change in enumerate(each for each in changes if files in ("all", each[1].lstrip("."))):
        for torn in (False, True) if unfinished(change) else (False,):
            config = tiny(**shape, out_dir=str(tmp_path / f"{number}{'-torn' if torn else ''}"))
            assert processes.run(train_until, config.model_dump(), change, torn) == -signal.SIGKILL, change
            assert processes.run(train_until, config.model_dump(), None, False) == 0, change
            assert left(config) == left(whole), change
