"""Workers that are lost while a run trains: it goes on, and comes to what it would have come to."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from popgpt.cluster import session
from popgpt.config import Config
from popgpt.data.dataset import ensure_dataset
from popgpt.metrics.row import Row
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.folder import state_names
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.conftest import tiny_config
from tests.moments import MOMENTS, RUN, SAMPLE, Moment, finished, phase, rows
from tests.nodes import cluster, file_of, kill, nothing_is_held, opened, wait_for, worker_pids
from tests.runs import left
from tests.samples import sample_and_whole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
Make = Callable[..., Config]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head with room for two workers."""
    with cluster(2) as nodes, session.connected():
        yield nodes


def train(config: Config, should_stop: Callable[[], bool] = lambda: False) -> Row:
    from popgpt.cluster.group import train_on_workers

    ensure_dataset(config)
    return train_on_workers(config, {"CPU": 1}, lambda row: None, should_stop)


def disturbed(config: Config, disturb: Callable[[], None], should_stop: Callable[[], bool] = lambda: False) -> Row:
    """Train, while `disturb` is at work."""
    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    result = train(config, should_stop)
    thread.join(60)
    assert not thread.is_alive(), "the run ended before it was disturbed"
    return result


@pytest.fixture(scope="module")
def undisturbed(nodes: Any, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Config:
    """A run of two workers that nothing disturbs."""
    config = tiny_config(out_dir=str(tmp_path_factory.mktemp("undisturbed")), data_dir=str(shared_data), **RUN)
    assert train(config)["world_size"] == 2
    return config


@pytest.mark.parametrize("moment", sample_and_whole(SAMPLE, MOMENTS))
def test_a_worker_that_is_killed_at_any_moment_changes_nothing(tiny: Make, undisturbed: Config, moment: Moment) -> None:
    config = tiny(**RUN)
    phases = []

    def kill_one() -> None:
        wait_for(lambda: len(worker_pids()) == 2, "the workers", every=0.05)
        victim = random.Random(str(moment)).choice(worker_pids())
        moment.wait(config, start_seconds=2)
        kill(victim, signal.SIGSTOP)
        phases.append("finished" if finished(config) else phase(config))
        kill(victim)

    assert disturbed(config, kill_one)["status"] == "completed"
    print(f"killed a worker while {phases[0]}")
    assert phases != ["finished"]
    assert left(config) == left(undisturbed)


@pytest.mark.parametrize(("workers", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_a_worker_that_hangs_is_started_again(
    tiny: Make, tmp_path: Path, undisturbed: Config, caplog: pytest.LogCaptureFixture, workers: int, rank: int
) -> None:
    config = tiny(**{**RUN, "workers": workers, "worker_timeout": 30.0})
    whole = undisturbed
    if workers == 1:
        whole = config.model_copy(update={"out_dir": str(tmp_path / "alone")})
        fit(whole, ensure_dataset(whole), World(torch.device("cpu")))

    def hang() -> None:
        wait_for(lambda: rows(config) > 10, "the first rows")
        os.kill(ranked_pids(config)[rank], signal.SIGSTOP)

    assert disturbed(config, hang)["status"] == "completed"
    assert "no iteration for 30 seconds: a worker hangs" in caplog.text
    wait_for(lambda: not stopped(worker_pids()), "the worker that hung to end", every=0.1)
    assert left(config) == left(whole)


def ranked_pids(config: Config) -> list[int]:
    """The processes of the group that trains in out_dir: first that of rank 0, which alone holds the folder's lock."""
    lock = file_of(Path(config.out_dir) / folder.WRITER_LOCK)
    return sorted(worker_pids(), key=lambda pid: lock not in opened(pid))


def stopped(pids: list[int]) -> list[int]:
    """Those of the processes that SIGSTOP holds."""
    held = []
    for pid in pids:
        with suppress(OSError):  # it has ended
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                held.append(pid)
    return held


def test_what_rank_0_alone_refuses_ends_the_group_and_leaves_nothing(tiny: Make, nodes: Any) -> None:
    config = tiny(**RUN)
    with (
        folder.claimed(Folder(config.out_dir)),
        pytest.raises(UserError, match=f"^out_dir={config.out_dir} is in use by another run; give another out_dir$"),
    ):
        train(config)
    wait_for(lambda: not worker_pids(), "the workers to end", every=0.1)
    wait_for(nothing_is_held, "the placement group to be removed", every=0.1)
    assert not rows(config)


def test_a_disk_that_is_full_for_a_worker_ends_the_group_in_one_line(tiny: Make, undisturbed: Config) -> None:
    config = tiny(**RUN)

    def fill() -> None:
        wait_for(lambda: state_names(Folder(config.out_dir)), "a state")
        resource.prlimit(ranked_pids(config)[0], resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))

    with pytest.raises(UserError, match=r"^out_dir=.*: File too large; .*/state-\d+\.pt is whole: mend this and give"):
        disturbed(config, fill)
    assert train(config)["status"] == "completed"
    assert left(config) == left(undisturbed)
