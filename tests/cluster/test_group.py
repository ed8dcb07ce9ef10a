"""A run on Ray's workers is the run in one process: their number changes nothing but the last bits of a sum."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import torch

from popgpt.cluster import ray_internals, session
from popgpt.config import Config
from popgpt.data.dataset import ensure_dataset
from popgpt.metrics.row import Row
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training.folder import last_state, read_metrics
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.nodes import WORKER, exposed, family, kill, listening, nothing_is_held, pids, wait_for, worker_pids
from tests.samples import sample_and_whole
from tests.training.test_loop import run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
Make = Callable[..., Config]


@pytest.fixture(scope="module")
def resources() -> Iterator[session.Resources]:
    with session.connected() as resources:
        yield resources


def train(config: Config, resources: session.Resources, should_stop: Callable[[], bool] = lambda: False) -> Row:
    from popgpt.cluster.group import train_on_workers

    ensure_dataset(config)
    return train_on_workers(config, resources.per_worker(config.workers, config.device), lambda row: None, should_stop)


def losses(config: Config) -> list[float]:
    return [row["train_loss"] for row in read_metrics(Folder(config.out_dir))]


@pytest.mark.parametrize("numbers", sample_and_whole([[1, 3]], [[1, 2, 3]]))
def test_any_number_of_workers_gives_the_losses_of_one_process(
    tiny: Make, tmp_path: Path, resources: session.Resources, numbers: list[int]
) -> None:
    shape = {"max_iters": 20, "eval_interval": 20, "batch_size": 7, "dropout": 0.1}
    alone = tiny(**shape)
    result = fit(alone, ensure_dataset(alone), World(torch.device("cpu")))
    for workers in numbers:
        config = tiny(**shape, workers=workers, out_dir=str(tmp_path / f"of{workers}"))
        with listening() as found:
            shared = train(config, resources)
        assert exposed(found) == set()
        ports = Counter(pid for pid, _ in {(process.split()[-1], at) for process, at in found if WORKER in process})
        assert workers == 1 or max(ports.values()) > 1, "a worker listens for the others as well as for Ray"
        assert losses(config) == pytest.approx(losses(alone), rel=1e-5)
        assert shared["world_size"] == workers
        assert (shared["lines"], shared["tokens"]) == (result["lines"], result["tokens"])
        assert shared["exact_match_n"] == result["exact_match_n"]
        assert shared["val_loss"] == pytest.approx(result["val_loss"], rel=1e-4)
        assert not list(Path(config.out_dir).glob("ray-*"))


# batch_size and gradient_accumulation_steps of each number of workers, by the rows of an iteration
CUTS = {
    7: {1: (1, 7), 2: (7, 1), 3: (1, 7), 4: (7, 1)},
    10: {1: (5, 2), 2: (2, 5), 3: (5, 2), 4: (2, 5)},
}
SAMPLE = [("adamw", 10, [2])]


@pytest.mark.parametrize(
    ("optimizer", "rows", "workers"),
    sample_and_whole(SAMPLE, [(optimizer, rows, [1, 2, 3, 4]) for optimizer in ("muon", "adamw") for rows in CUTS]),
)
def test_50_losses_are_those_of_one_process(
    tiny: Make, tmp_path: Path, resources: session.Resources, optimizer: str, rows: int, workers: list[int]
) -> None:
    """Each number of workers cuts the rows of an iteration in its own way, unevenly; dropout is on."""
    shape = {"max_iters": 50, "eval_interval": 50, "dropout": 0.1, "optimizer": optimizer}
    whole = tiny(**shape, batch_size=rows, gradient_accumulation_steps=1)
    run(whole)
    for number in workers:
        batch_size, steps = CUTS[rows][number]
        cut = {"batch_size": batch_size, "gradient_accumulation_steps": steps, "workers": number}
        config = tiny(**shape, **cut, out_dir=str(tmp_path / f"of{number}"))
        assert train(config, resources)["world_size"] == number
        assert losses(config) == pytest.approx(losses(whole), rel=1e-5)
        assert len(losses(config)) == 50


@pytest.mark.slow
def test_a_ray_started_here_has_no_process_that_serves_nobody(resources: session.Resources) -> None:
    titles = [Path(f"/proc/{pid}/cmdline").read_text() for pid in family(os.getpid())]
    assert any("raylet" in title for title in titles)
    assert [title for title in titles if "monitor.py" in title or "dashboard.py" in title] == []
    processes = [title for title in titles if "--dashboard_agent_command" not in title]
    (agent,) = [title for title in processes if "agent.py" in title or "DashboardAgent" in title]
    assert ray_internals.AGENT[-1] in agent


@pytest.mark.slow
def test_a_mistake_that_a_worker_finds_is_told_in_one_line(tiny: Make, resources: session.Resources) -> None:
    config = tiny(learning_rate=1e30, optimizer="adamw", warmup_iters=0, grad_clip=0.0, workers=2)
    with pytest.raises(UserError, match="the loss is not finite at iteration"):
        train(config, resources)
    wait_for(nothing_is_held, "its cores", every=0.1)
    wait_for(lambda: not pids("ray::TrainController"), "its controller to end", every=0.1)


@pytest.mark.slow
def test_a_controller_ends_though_its_run_does_not_and_its_place_is_given_back(resources: session.Resources) -> None:
    """An actor that exits by itself would wait for it, and Ray keeps the place of one that is killed."""
    from popgpt.cluster.group import TrainerThread

    @ray.remote(num_cpus=0)
    class Controller:
        async def pid(self) -> int:
            self.place = ray.util.placement_group([{"CPU": 1}])
            await self.place.ready()
            return os.getpid()

        async def run(self) -> None:
            while True:
                await asyncio.sleep(0.1)

        async def abort(self) -> None:
            ray.actor.exit_actor()

    class Trainer:
        def fit(self) -> None:
            ray.get(controller.run.remote())

    controller = Controller.remote()  # type: ignore[attr-defined]
    pid = ray.get(controller.pid.remote())
    thread = TrainerThread(Trainer())
    thread.end(controller)
    assert isinstance(thread.failure, ray.exceptions.RayError)
    wait_for(lambda: pid not in pids("ray::Controller"), "the controller to end", every=0.1)
    wait_for(nothing_is_held, "its place", every=0.1)


@pytest.mark.soak  # in CI tests/cluster/test_faults.py has signals ask for it
def test_workers_that_are_asked_to_stop_save_their_state(tiny: Make, resources: session.Resources) -> None:
    config = tiny(max_iters=100_000, eval_interval=100_000, workers=2)
    metrics = Path(config.out_dir) / "metrics.jsonl"
    result = train(config, resources, lambda: metrics.exists() and metrics.read_text().count("\n") > 3)
    assert result["status"] == "interrupted"
    assert last_state(Folder(config.out_dir)) == f"state-{result['last_iteration']}.pt"
    on = config.model_copy(update={"init_from": "resume", "max_iters": result["last_iteration"] + 2})
    assert train(on, resources)["last_iteration"] == result["last_iteration"] + 2


@pytest.mark.slow
def test_workers_that_fail_too_often_are_told_of_in_one_line(tiny: Make, resources: session.Resources) -> None:
    config = tiny(max_iters=100_000, eval_interval=5, workers=2, max_failures=0)
    killed = False

    def kill_once() -> bool:
        nonlocal killed
        if last_state(Folder(config.out_dir)) and not killed:
            workers = worker_pids()
            for number in (signal.SIGSTOP, signal.SIGKILL):  # none is to tell first that the others are gone
                killed = [kill(pid, number) for pid in workers] == [True, True]
        return False

    maybe = r"maybe out of memory with batch_size=4, .*: lower batch_size, .*"
    with pytest.raises(
        UserError, match=rf"the workers failed: a worker's process died, {maybe}; the same command goes"
    ):
        train(config, resources, kill_once)
    assert killed
    assert (Path(config.out_dir) / "error.txt").read_text()


def test_what_a_worker_gets() -> None:
    laptop = session.Resources(cpus=8, gpus=0, local=True)
    assert laptop.per_worker(1, "auto") == {"CPU": 8}
    assert laptop.per_worker(3, "auto") == {"CPU": 2}
    assert laptop.per_worker(16, "cpu") == {"CPU": 0.5}
    with pytest.raises(UserError, match="workers=2 with device=cuda need 2 GPUs; there are 0"):
        laptop.per_worker(2, "cuda")
    assert laptop.per_worker(16, "cpu", fewest=1) == {"CPU": 1}
    cluster = session.Resources(cpus=64, gpus=4, local=False)
    assert cluster.per_worker(4, "auto") == {"CPU": 1, "GPU": 1}
    assert cluster.per_worker(8, "auto") == {"CPU": 1}
    assert cluster.per_worker(8, "cuda", fewest=2) == {"CPU": 1, "GPU": 1}
    with pytest.raises(UserError, match="workers=8 with device=cuda need 8 GPUs; there are 4"):
        cluster.per_worker(8, "cuda")
    with pytest.raises(UserError, match="workers=65 need 65 CPU cores; the cluster has 64"):
        cluster.per_worker(65, "cpu")
    growing = session.Resources(cpus=1, gpus=0, local=False, grows=True)
    assert growing.per_worker(8, "cuda") == {"CPU": 1, "GPU": 1}
