"""Where trials go: what is asked for and what there is, in literals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.cluster import session
from popgpt.sweep import schema
from popgpt.sweep.placement import GpuMemory, Placement, place, shares_gpus, too_tight
from popgpt.text.errors import UserError

GIB = 2**30
SMALL = GpuMemory(total=80 * GIB, context=1 * GIB, peak=9 * GIB)  # 7 of them are 70 of 76 GiB
LARGE = GpuMemory(total=80 * GIB, context=1 * GIB, peak=60 * GIB)


def here(cpus: float, gpus: float = 0) -> session.Resources:
    """This machine's Ray."""
    return session.Resources(cpus=cpus, gpus=gpus, local=True)


def cluster(cpus: float, gpus: float = 0, grows: bool = False) -> session.Resources:
    return session.Resources(cpus=cpus, gpus=gpus, local=False, grows=grows)


def placed(has: session.Resources, workers: int, trials: int, device: str = "auto", **asked: Any) -> Placement:
    memory = asked.pop("memory", None)
    return place(schema.TrialResources(**asked), has, workers, device, trials, memory)


@pytest.mark.parametrize(
    ("cores", "workers", "trials", "cpus", "at_once"),
    [
        (2, 1, 8, 1, 2),
        (8, 1, 8, 1, 8),
        (8, 1, 5, 1, 8),  # 5 at a time leave 3 cores that can't be shared out
        (8, 1, 4, 2, 4),
        (8, 1, 3, 2, 4),
        (8, 1, 1, 8, 1),
        (2, 2, 4, 2, 1),
        (8, 2, 8, 2, 4),
        (8, 2, 2, 4, 2),
        (8, 3, 8, 3, 2),
        (2, 4, 4, 2, 1),  # half a core a worker
        (1, 1, 8, 1, 1),
    ],
)
def test_auto_gives_a_worker_a_core_and_shares_out_what_is_left(
    cores: int, workers: int, trials: int, cpus: float, at_once: int
) -> None:
    assert placed(here(cores), workers, trials) == Placement(workers, cpus, 0, at_once)


def test_fewer_at_a_time_have_more_cores_each() -> None:
    assert placed(here(8), 1, 8, max_concurrent=2) == Placement(1, 4, 0, 2)
    assert placed(here(8), 1, 8, max_concurrent=20) == Placement(1, 1, 0, 8)
    assert placed(here(8), 2, 8, max_concurrent=1) == Placement(2, 8, 0, 1)


@pytest.mark.parametrize(
    ("gpus", "cores", "trials", "memory", "each", "cpus", "at_once"),
    [
        (4, 32, 4, SMALL, 1, 8, 4),  # as many as the GPUs
        (4, 32, 3, SMALL, 1, 10, 3),
        (1, 32, 4, SMALL, 0.25, 8, 4),  # all four
        (1, 32, 20, SMALL, 0.1428, 4, 7),  # what its memory holds
        (1, 4, 20, SMALL, 0.25, 1, 4),  # a core each
        (2, 32, 9, SMALL, 0.2, 3, 10),
        (1, 32, 20, LARGE, 1, 32, 1),  # one by one
        (1, 32, 20, None, 1, 32, 1),  # not known
        (4, 2, 8, SMALL, 1, 1, 2),  # no core for the others
    ],
)
def test_auto_shares_gpus_where_there_are_more_trials_than_gpus(
    gpus: int, cores: int, trials: int, memory: GpuMemory | None, each: float, cpus: float, at_once: int
) -> None:
    found = placed(here(cores, gpus), 1, trials, memory=memory)
    assert (found.gpus, found.cpus, found.at_once) == (each, cpus, at_once)
    assert found.memory == (each - 1 / 80 if each < 1 else None)


def test_auto_goes_by_the_device_and_the_workers() -> None:
    assert placed(here(8, 2), 1, 8, "cpu").gpus == 0
    assert placed(here(8, 2), 2, 8, "auto", memory=SMALL).gpus == 2, "workers of a group share no GPU"
    assert placed(here(8, 2), 4, 8, "auto").gpus == 0, "as a run of four workers"
    with pytest.raises(UserError, match=r"^workers=4 with device=cuda need 4 GPUs; there are 2$"):
        placed(here(8, 2), 4, 8, "cuda")
    with pytest.raises(UserError, match=r"^workers=1 with device=cuda need 1 GPU; there are 0$"):
        placed(here(8), 1, 8, "cuda")


def test_on_a_cluster_auto_is_one_of_each_for_a_worker() -> None:
    assert placed(cluster(64, 4), 1, 8) == Placement(1, 1, 1, None)
    assert placed(cluster(64), 1, 8) == Placement(1, 1, 0, None)
    assert placed(cluster(64), 2, 8) == Placement(2, 2, 0, 32)
    assert placed(cluster(0, 0, grows=True), 2, 8, "cuda") == Placement(2, 2, 2, 1)
    with pytest.raises(UserError, match=r"^workers=3 need 3 CPU cores; there are 2$"):
        placed(cluster(2), 3, 8)


def test_this_machine_runs_as_many_as_it_holds() -> None:
    assert placed(here(8), 1, 99, cpus_per_trial=2.0).at_once == 4
    assert placed(here(8), 3, 99, cpus_per_trial=3.0).at_once == 2
    assert placed(here(8), 1, 99, cpus_per_trial=2.0, max_concurrent=3).at_once == 3
    assert placed(here(8), 1, 99, cpus_per_trial=2.0, max_concurrent=30).at_once == 4
    assert placed(here(1), 1, 99, cpus_per_trial=0.1).at_once == 10
    assert placed(here(64, 2), 1, 99, gpus_per_trial=0.4).at_once == 4, "no trial has parts of two GPUs"


def test_a_growing_cluster_is_left_to_place_trials_as_nodes_come() -> None:
    asked = {"cpus_per_trial": 4.0, "gpus_per_trial": 2.0}
    assert placed(cluster(4, grows=True), 1, 99, **asked).at_once is None
    assert placed(cluster(4, grows=True), 1, 99, **asked, max_concurrent=8).at_once == 8
    assert placed(cluster(4, grows=True), 2, 99, **asked).at_once == 1


@pytest.mark.parametrize(
    ("has", "workers", "device", "asked", "said"),
    [
        (here(2), 1, "auto", {"cpus_per_trial": 3.0}, "resources.cpus_per_trial=3 should be at most the 2 there are"),
        (
            here(2, 1),
            1,
            "auto",
            {"gpus_per_trial": 2.0},
            "resources.gpus_per_trial=2 should be at most the 1 there are",
        ),
        (
            cluster(2),
            1,
            "auto",
            {"cpus_per_trial": 3.0},
            "resources.cpus_per_trial=3 should be at most the 2 there are",
        ),
        (here(2, 1), 1, "cuda", {"gpus_per_trial": 0.0}, "device='cuda' needs resources.gpus_per_trial above 0"),
        (
            here(2, 2),
            1,
            "auto",
            {"gpus_per_trial": 1.5},
            "resources.gpus_per_trial=1.5 should be a part of one or a whole number",
        ),
        (
            here(2, 1),
            2,
            "auto",
            {"gpus_per_trial": 1.0},
            "resources.gpus_per_trial=1 should be a multiple of workers=2: none share one",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused(
    has: session.Resources, workers: int, device: str, asked: dict[str, float], said: str
) -> None:
    with pytest.raises(UserError) as refused:
        placed(has, workers, 8, device, **asked)
    assert str(refused.value) == said


def test_memory_is_worth_a_probe_only_where_a_gpu_may_be_shared() -> None:
    def shared(has: session.Resources, workers: int = 1, trials: int = 8, device: str = "auto", **asked: Any) -> bool:
        return shares_gpus(schema.TrialResources(**asked), has, workers, device, trials)

    assert shared(here(8, 1))
    assert not shared(here(8, 8))
    assert not shared(here(8, 2), workers=2)
    assert not shared(here(8))
    assert not shared(here(8, 1), device="cpu")
    assert not shared(here(1, 1)), "its one core is for one trial"
    assert not shared(cluster(8, 1))
    assert shared(cluster(8, 1), gpus_per_trial=0.5)
    assert not shared(here(8, 1), gpus_per_trial=1.0)


def test_a_share_that_is_too_small_is_told_in_one_line() -> None:
    tight, wide = (placed(here(8, 1), 1, 8, gpus_per_trial=share, memory=SMALL) for share in (0.1, 0.2))
    assert too_tight(wide, SMALL) is None
    assert too_tight(tight, None) is None
    assert too_tight(tight, SMALL) == (
        "resources.gpus_per_trial=0.1 leaves a trial 7.0 GiB of its GPU, but the largest took 9.0 GiB in a probe: "
        "give 0.13"
    )


@given(
    cpus=st.integers(1, 256), gpus=st.integers(0, 16), workers=st.integers(1, 16), trials=st.integers(1, 100),
    fits=st.integers(1, 60), device=st.sampled_from(["auto", "cpu"]),
)  # fmt: skip
def test_what_runs_at_once_fits_and_no_core_waits_in_vain(
    cpus: int, gpus: int, workers: int, trials: int, fits: int, device: str
) -> None:
    memory = GpuMemory(total=1000 * GIB, context=0, peak=950 * GIB // fits)
    found = placed(here(cpus, gpus), workers, trials, device, memory=memory)
    assert found.at_once is not None
    assert found.at_once >= 1
    assert found.cpus * found.at_once <= cpus + 1e-6
    assert found.gpus * found.at_once <= gpus + 1e-6
    assert found.gpus == 0 or found.gpus >= 1 or int(1 / found.gpus + 1e-9) <= fits
    assert found.each["CPU"] >= 1 or cpus < workers
