"""A group whose workers or driver are disturbed while it trains: the run comes to what it would have come to."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from popgpt.cluster import session
from popgpt.cluster.group import POLL_SECONDS
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
from tests.moments import RUN, Moment, finished, one_run_and_many, phase, rows
from tests.nodes import PATIENCE, cluster, file_of, kill, nothing_is_held, opened, pids, wait_for, worker_pids
from tests.runs import left
from tests.samples import sample_and_whole
from tests.test_faults import Command, completes, held

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
Make = Callable[..., Config]
ENDLESS = {**RUN, "max_iters": 1_000_000, "eval_interval": 1_000_000}
# In the order in which a run comes to them.
STARTING, EVALUATING, WRITING, TRAINING = map(Moment, ("starting", "evaluating", "writing", "training"), (0, 0, 0, 1))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A Ray with room for two workers, which this process has joined."""
    with cluster(2) as nodes, session.connected():
        yield nodes


@pytest.fixture(scope="module")
def undisturbed(nodes: Any, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Config:
    """A run of two workers that nothing disturbs."""
    config = tiny_config(out_dir=str(tmp_path_factory.mktemp("runs") / "out"), data_dir=str(shared_data), **RUN)
    assert train(config)["world_size"] == 2
    return config


def train(config: Config, should_stop: Callable[[], bool] = lambda: False) -> Row:
    from popgpt.cluster.group import train_on_workers

    ensure_dataset(config)
    return train_on_workers(config, {"CPU": 1}, lambda row: None, should_stop)


def disturbed(config: Config, disturb: Callable[[], None]) -> Row:
    """Train, while `disturb` is at work."""
    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    result = train(config)
    thread.join(60)
    assert not thread.is_alive(), "the run ended before it was disturbed"
    return result


@pytest.mark.parametrize("moments", one_run_and_many([STARTING, WRITING]))
def test_a_driver_that_is_killed_at_any_moment_changes_nothing(
    tiny: Make, undisturbed: Config, moments: list[Moment]
) -> None:
    """The same command goes on. Two of them have a Ray of their own, which dies with its driver."""
    config = tiny(**RUN)
    for moment in moments:
        with Command(config, own_ray=moment in (WRITING, TRAINING)) as driver:
            moment.wait(config, start_seconds=8, wait_for=driver.wait_for)
            doing = "finished" if finished(config) else phase(config)
            driver.process.kill()
        print(f"killed the driver while {doing}")
        assert doing != "finished"
    completes(config)
    assert left(config) == left(undisturbed)


CTRL_C, CTRL_C_ALONE, SIGTERM = (signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)


@pytest.mark.parametrize(
    "interruptions",
    [
        pytest.param([CTRL_C_ALONE], marks=pytest.mark.slow, id="Ctrl-C with a Ray of its own"),
        pytest.param([CTRL_C, SIGTERM], marks=pytest.mark.soak, id="soak-Ctrl-C, SIGTERM"),
    ],
)
def test_a_group_that_is_interrupted_saves_its_state(
    tiny: Make, undisturbed: Config, interruptions: list[tuple[int, bool]]
) -> None:
    config = tiny(**RUN)
    for number, own_ray in interruptions:
        before = rows(config)
        with Command(config, own_ray=own_ray) as driver:
            driver.wait_for(lambda before=before: rows(config) > before + 3, "the first rows")
            with held(worker_pids()):  # it is not to end before it has heard of it
                driver.interrupt(number)
                assert said(driver, "stopping after this iteration")
                time.sleep(4 * POLL_SECONDS)
            code, output, errors = driver.end()
        assert code == 130, errors
        stopped = folder.read_result(Folder(config.out_dir))
        assert stopped["status"] == "interrupted"
        assert f"stopped at iteration {stopped['last_iteration']}; the same command goes on" in output
        assert folder.last_state(Folder(config.out_dir)) == folder.state_name(stopped["last_iteration"])
    completes(config)
    assert left(config) == left(undisturbed)


@pytest.mark.parametrize("number", sample_and_whole([signal.SIGINT], [signal.SIGTERM]))
def test_a_second_signal_ends_a_group_that_does_not_heed_the_first(tiny: Make, nodes: Any, number: int) -> None:
    """Its workers hang, so that they save no state."""
    config = tiny(**ENDLESS)
    with Command(config) as driver:
        driver.wait_for(lambda: rows(config) > 3, "the first rows")
        for pid in worker_pids():
            kill(pid, signal.SIGSTOP)
        driver.interrupt(number)
        assert said(driver, "stopping after this iteration")
        driver.interrupt(number)
        code, _, errors = driver.end()
    assert code == 130, errors
    assert "Traceback" not in errors
    wait_for(lambda: not worker_pids(), "the workers to end", every=0.1)


def said(running: Command, text: str) -> bool:
    """Whether it says so on stderr, before it ends."""
    assert running.process.stderr
    return any(text in line for line in iter(running.process.stderr.readline, ""))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "fewest"), [(signal.SIGINT, 1), (signal.SIGTERM, None)])
def test_a_group_that_waits_for_a_busy_cluster_can_be_interrupted(
    tiny: Make, nodes: Any, number: int, fewest: int | None
) -> None:
    config = tiny(**ENDLESS, min_workers=fewest)
    others = set(pids("ray::TrainController"))
    with busy(), Command(config) as driver:
        driver.wait_for(lambda: set(pids("ray::TrainController")) - others, "the group", every=0.1)
        driver.interrupt(number)
        code, _, errors = driver.end()
    assert code == 130, errors
    assert "Traceback" not in errors
    assert not rows(config)


@contextmanager
def busy() -> Iterator[None]:
    """While both cores of the cluster are taken."""
    place = ray.util.placement_group([{"CPU": 2}])
    ray.get(place.ready(), timeout=PATIENCE)
    try:
        yield
    finally:
        ray.util.remove_placement_group(place)


@pytest.mark.parametrize("moments", one_run_and_many([EVALUATING, TRAINING]))
def test_a_worker_that_is_killed_at_any_moment_changes_nothing(
    tiny: Make, undisturbed: Config, moments: list[Moment]
) -> None:
    config = tiny(**RUN)
    phases, before = [], set(worker_pids())

    def kill_one_each() -> None:
        for moment in moments:
            workers = new_workers(before)
            victim = random.Random(str(moment)).choice(workers)
            moment.wait(config, start_seconds=2)
            assert kill(victim, signal.SIGSTOP)
            phases.append("finished" if finished(config) else phase(config))
            kill(victim)
            before.update(workers)

    assert disturbed(config, kill_one_each)["status"] == "completed"
    print(f"killed a worker while {', '.join(phases)}")
    assert len(phases) == len(moments)
    assert "finished" not in phases
    assert left(config) == left(undisturbed)


def new_workers(before: set[int]) -> list[int]:
    """Both processes of a group, once they are there."""
    wait_for(lambda: len(set(worker_pids()) - before) == 2, "the workers", every=0.05)
    return sorted(set(worker_pids()) - before)


@pytest.mark.parametrize(("workers", "ranks"), sample_and_whole([(2, [1])], [(1, [0]), (2, [1, 0])]))
def test_a_worker_that_hangs_is_started_again(
    tiny: Make, tmp_path: Path, undisturbed: Config, caplog: pytest.LogCaptureFixture, workers: int, ranks: list[int]
) -> None:
    config = tiny(**{**RUN, "workers": workers, "worker_timeout": 30.0})
    whole = undisturbed
    if workers == 1:
        whole = config.model_copy(update={"out_dir": str(tmp_path / "alone")})
        fit(whole, ensure_dataset(whole), World(torch.device("cpu")))

    def hang() -> None:
        seen = 0
        for rank in ranks:
            wait_for(lambda seen=seen: rows(config) > seen + 10, "new rows")
            seen = rows(config)
            os.kill(ranked_pids(config)[rank], signal.SIGSTOP)

    assert disturbed(config, hang)["status"] == "completed"
    assert caplog.text.count("no iteration for 30 seconds: a worker hangs") >= len(ranks)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_worker_ends_the_group_in_one_line(tiny: Make, undisturbed: Config) -> None:
    config = tiny(**RUN)

    def fill() -> None:
        wait_for(lambda: state_names(Folder(config.out_dir)), "a state")
        resource.prlimit(ranked_pids(config)[0], resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))

    with pytest.raises(UserError, match=r"^out_dir=.*: File too large; .*/state-\d+\.pt is whole: mend this and give"):
        disturbed(config, fill)
    assert train(config)["status"] == "completed"
    assert left(config) == left(undisturbed)
