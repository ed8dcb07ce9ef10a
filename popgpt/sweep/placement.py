"""Where a sweep's trials run: the cores and GPUs of each, and how many run at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from popgpt.cluster import session
from popgpt.sweep import schema
from popgpt.text.errors import UserError

USABLE = 0.95  # of a GPU's memory: allocators leave gaps


@dataclass(frozen=True)
class GpuMemory:
    """The memory of a GPU in bytes, as the probe of a sweep's largest trial measured it."""

    total: int
    context: int  # what a process takes before its tensors
    peak: int  # the most that the trial's tensors took


@dataclass(frozen=True)
class Placement:
    """What a trial takes, all its workers together."""

    workers: int
    cpus: float
    gpus: float
    at_once: int | None  # trials that run at a time; None: as many as Ray places
    memory: float | None = None  # the part of its GPU's memory that a trial's tensors may take; None: all

    @property
    def each(self) -> dict[str, float]:
        """The CPU and GPU of each worker."""
        return {"CPU": self.cpus / self.workers, "GPU": self.gpus / self.workers}


def place(
    asked: schema.TrialResources,
    has: session.Resources,
    workers: int,
    device: str,
    trials: int,
    memory: GpuMemory | None = None,
) -> Placement:
    """Return the placement of `trials` trials of `workers` workers each, on the base config's device.

    Without `memory`, that of the largest trial, `auto` has none share a GPU. Raises UserError if a trial takes more
    than there is and can come, or if workers would share a GPU.
    """
    together = min(trials, asked.max_concurrent) if asked.max_concurrent != "auto" else trials
    fits = 1 if memory is None else int(memory.total * USABLE / (memory.context + memory.peak))
    gpus = _gpus(asked, has, workers, together, device, fits)
    cpus = _cpus(asked, has, workers, together, gpus)
    _check(asked, has, workers, device, cpus, gpus)
    taken = memory.context / memory.total if memory else 0.0
    share = max(0.0, gpus - taken) if 0 < gpus < 1 else None
    return Placement(workers, cpus, gpus, _at_once(asked, has, workers, cpus, gpus), share)


def shares_gpus(asked: schema.TrialResources, has: session.Resources, workers: int, device: str, trials: int) -> bool:
    """Return whether trials would share a GPU if they were small enough, so that a probe of their memory pays."""
    small = GpuMemory(total=2**60, context=0, peak=1)
    return 0 < place(asked, has, workers, device, trials, small).gpus < 1


def too_tight(placement: Placement, memory: GpuMemory | None) -> str | None:
    """Return a warning if the largest trial is likely to run out of its share of a GPU's memory, else None."""
    if memory is None or placement.memory is None or memory.peak <= placement.memory * memory.total:
        return None
    left = placement.memory * memory.total
    needed = math.ceil(100 * (memory.context + memory.peak) / memory.total) / 100
    return (
        f"resources.gpus_per_trial={placement.gpus:g} leaves a trial {left / 2**30:.1f} GiB of its GPU, but the "
        f"largest took {memory.peak / 2**30:.1f} GiB in a probe: give {needed:g}"
    )


def _gpus(
    asked: schema.TrialResources, has: session.Resources, workers: int, together: int, device: str, fits: int
) -> float:
    """Return the GPUs of a trial. fits: trials whose memory one GPU holds.

    `auto` gives each worker a whole one. On this machine trials of one worker share GPUs if they are more than these.
    """
    if asked.gpus_per_trial != "auto":
        return asked.gpus_per_trial
    if device == "cpu" or (device == "auto" and has.gpus < workers):
        return 0
    if workers > 1 or not has.local or not has.gpus:
        return workers
    cores = 1 if asked.cpus_per_trial == "auto" else asked.cpus_per_trial
    sharing = min(math.ceil(together / has.gpus), int(has.cpus / has.gpus / cores), fits)
    return math.floor(1e4 / sharing) / 1e4 if sharing > 1 else 1  # Ray counts ten thousandths


def _cpus(asked: schema.TrialResources, has: session.Resources, workers: int, together: int, gpus: float) -> float:
    """Return the cores of a trial. `auto` is one a worker on a cluster, and an equal share on this machine."""
    if asked.cpus_per_trial != "auto":
        return asked.cpus_per_trial
    if not has.local:
        return workers
    together = max(1, min(together, int(has.cpus / workers)))
    if gpus and has.gpus:
        together = min(together, max(1, _on_gpus(has, gpus)))
    return workers * (has.cpus // (together * workers)) or has.cpus / together


def _on_gpus(has: session.Resources, gpus: float) -> int:
    """Return how many trials of `gpus` GPUs there is room for. None has parts of two."""
    return int(has.gpus / gpus) if gpus >= 1 else int(has.gpus) * int(1 / gpus + 1e-9)


def _check(
    asked: schema.TrialResources, has: session.Resources, workers: int, device: str, cpus: float, gpus: float
) -> None:
    """Raise UserError if no GPU is given for device=cuda, if workers would share one, or if there is too little."""
    if device == "cuda" and not gpus:
        raise UserError("device='cuda' needs resources.gpus_per_trial above 0")
    if gpus % workers and (workers > 1 or gpus > 1):
        one = "a part of one or a whole number" if workers == 1 else f"a multiple of workers={workers}: none share one"
        raise UserError(f"resources.gpus_per_trial={gpus:g} should be {one}")
    demands = (("cpus_per_trial", "CPU core", cpus, has.cpus), ("gpus_per_trial", "GPU", gpus, has.gpus))
    for name, what, amount, there in demands:
        if amount > there and not has.grows:
            if getattr(asked, name) != "auto":
                raise UserError(f"resources.{name}={amount:g} should be at most the {there:g} there are")
            device = " with device=cuda" if what == "GPU" else ""
            raise UserError(
                f"workers={workers}{device} need {amount:g} {what}{'s' * (amount != 1)}; there are {there:g}"
            )


def _at_once(
    asked: schema.TrialResources, has: session.Resources, workers: int, cpus: float, gpus: float
) -> int | None:
    """Return how many trials run at once; None: as many as Ray places.

    On a cluster, which may grow, trials of one worker wait for Ray to place them. One of several workers has a process
    while it waits, so no more start than fit now, unless max_concurrent says so.
    """
    fits = max(1, min(int(has.cpus / cpus + 1e-9), _on_gpus(has, gpus) if gpus else math.inf))
    wanted = asked.max_concurrent
    if has.local:
        return int(fits) if wanted == "auto" else min(int(fits), wanted)
    if wanted == "auto":
        return int(fits) if workers > 1 else None
    return wanted
