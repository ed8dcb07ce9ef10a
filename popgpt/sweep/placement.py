"""Where a sweep's trials go: the cores and GPUs of each, and how many run at once. Functions of what there is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from popgpt.cluster import session
from popgpt.sweep import schema
from popgpt.text.errors import UserError

USABLE = 0.95  # of a GPU's memory: allocators leave gaps


@dataclass(frozen=True)
class GpuMemory:
    """Of a GPU, in bytes: all there is, what a process takes before its tensors, and those of one trial at peak."""

    total: int
    context: int
    peak: int


@dataclass(frozen=True)
class Placement:
    """What a trial takes, all its workers together.

    Args:
        at_once: trials that run at a time; None: as many as Ray places.
        memory: the part of its GPU's memory that a trial's tensors may take; None: all.
    """

    workers: int
    cpus: float
    gpus: float
    at_once: int | None
    memory: float | None = None

    @property
    def each(self) -> dict[str, float]:
        """CPU and GPU of each worker."""
        return {"CPU": self.cpus / self.workers, "GPU": self.gpus / self.workers}


def place(
    asked: schema.TrialResources,
    has: session.Resources,
    workers: int,
    device: str,
    trials: int,
    memory: GpuMemory | None = None,
) -> Placement:
    """The placement of `trials` trials of `workers` workers each.

    Args:
        device: as the base config says.
        memory: of the largest trial; None where it isn't known, and then none shares a GPU by `auto`.
    Raises:
        UserError: a trial takes more than there is and can come, or workers would share a GPU.
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
    """Whether a GPU has several trials, were they small enough: whether their memory is worth a probe."""
    small = GpuMemory(total=2**60, context=0, peak=1)
    return 0 < place(asked, has, workers, device, trials, small).gpus < 1


def too_tight(placement: Placement, memory: GpuMemory | None) -> str | None:
    """What to say where the largest trial is likely to run out of its share of a GPU's memory."""
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
    """The GPUs of a trial. `fits`: trials whose memory one GPU holds.

    By `auto` a whole one for each worker. Only trials of one worker, on this machine, that are more than the GPUs share
    them: as many on each as their memory and the cores allow.
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
    """The cores of a trial: by `auto` one for each worker, and here as many as those that run at once leave each."""
    if asked.cpus_per_trial != "auto":
        return asked.cpus_per_trial
    if not has.local:
        return workers
    together = max(1, min(together, int(has.cpus / workers)))
    if gpus and has.gpus:
        together = min(together, max(1, _on_gpus(has, gpus)))
    return workers * (has.cpus // (together * workers)) or has.cpus / together


def _on_gpus(has: session.Resources, gpus: float) -> int:
    """How many trials of `gpus` GPUs there is room for: none has parts of two."""
    return int(has.gpus / gpus) if gpus >= 1 else int(has.gpus) * int(1 / gpus + 1e-9)


def _check(
    asked: schema.TrialResources, has: session.Resources, workers: int, device: str, cpus: float, gpus: float
) -> None:
    """Refuse what can't be: a GPU that isn't given, one that workers would share, more than there is."""
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
    """How many trials run at once; None: as many as Ray places.

    On this machine as many as it holds. A cluster may grow: trials of one worker wait for their place by themselves;
    trials of several have a process each while they wait, so no more than fit now unless max_concurrent says so. None
    of them can starve another: a group gets its whole place or none of it.
    """
    fits = max(1, min(int(has.cpus / cpus + 1e-9), _on_gpus(has, gpus) if gpus else math.inf))
    wanted = asked.max_concurrent
    if has.local:
        return int(fits) if wanted == "auto" else min(int(fits), wanted)
    if wanted == "auto":
        return int(fits) if workers > 1 else None
    return wanted
