"""The keys of a search-space file, and the sweep that one makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from popgpt.config import MOST, Config, Count, Seed, by_foreign_name, make_config, merge
from popgpt.metrics.metric import MetricName
from popgpt.sweep.domain import Domain

MOST_TRIALS, MOST_SEEDS = 5_000, 1_000
# What other programs call the keys of a sweep, and the kinds of domains.
OTHER_KEYS = by_foreign_name(
    {
        "num_samples": "num_trials n_trials trials samples n_samples run_cap num_runs",
        "space": "parameters params param_space search_space hyperparameters",
        "config": "base base_config program",
        "metric": "objective target goal",
        "search": "method sampler search_alg algorithm",
        "asha": "scheduler pruner early_stopping early_terminate hyperband",
        "out_dir": "output_dir sweep_dir name",
        "points_to_evaluate": "points initial_points enqueue",
        "finalist_seeds": "repeats n_seeds num_seeds",
        "give resources: {max_concurrent: ...}": "max_concurrent_trials n_jobs parallel",
        "the metric says which end of it is best; leave it out": "mode",
        "grace_period": "min_t min_iter min_resource grace",
        "max_t": "max_iter max_resource",
        "reduction_factor": "eta",
        "cpus_per_trial": "cpus num_cpus cpu",
        "gpus_per_trial": "gpus num_gpus gpu",
    }
)

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class Asha(BaseModel):
    """When a trial is judged, in iterations, and what follows."""

    model_config = _STRICT

    grace_period: Count = Field(default=100, description="first rung: no trial is judged before it")
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = Field(
        default=3, description="one trial in so many goes on from a rung"
    )
    brackets: Count = Field(default=1, description="bracket s starts at grace_period * reduction_factor^s")
    max_t: Count | None = Field(default=None, description="where every trial ends; default the config's max_iters")
    rule: Literal["promote", "stop"] = Field(
        default="promote",
        description="at a rung, promote: each trial is held, the best go on; stop: it goes on at once, or ends",
    )


class TrialResources(BaseModel):
    """What one trial reserves, all its workers together."""

    model_config = _STRICT

    cpus_per_trial: Annotated[float, Field(ge=0.01)] | Literal["auto"] = Field(
        default="auto", description="CPU cores of a trial; auto: one a worker, and what else this machine has"
    )
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="GPUs of a trial, maybe a fraction; auto: one a worker, or on this machine a share"
    )
    max_concurrent: Count | Literal["auto"] = Field(default="auto", description="trials at a time; auto: what fits")


class SweepFile(BaseModel):
    """The keys of a search-space file."""

    model_config = _STRICT

    config: str = Field(min_length=1, description="the base config's file, relative to this one")
    metric: MetricName = Field(
        default="exact_match", description="what is best: highest exact_match or token_accuracy, or lowest val_loss"
    )
    num_samples: Annotated[int, Field(gt=0, le=MOST_TRIALS)] = Field(
        default=8, description="draws, for each grid point where there is a grid"
    )
    out_dir: str = Field(default="sweep", min_length=1, description="folder of the sweep")
    seed: Seed = Field(default=0, description="of the draws; the config's seed is the runs'")
    search: Literal["random", "optuna"] = Field(
        default="random", description="optuna: by TPE, from what the trials before it came to; takes popgpt[optuna]"
    )
    space: dict[str, Any] = Field(description="parameter: {choice: [...]}, a range, {grid: [...]} or a fixed value")
    points_to_evaluate: list[dict[str, Any]] = Field(
        default=[], description="swept parameters of the first trials; they count among num_samples"
    )
    asha: Asha | None = Field(default=Asha(), description="early stopping; null: every trial runs to its end")
    finalists: Annotated[int, Field(ge=0, le=MOST_TRIALS)] = Field(
        default=3, description="best trials that are trained to the full budget with more seeds; 0: none"
    )
    finalist_seeds: Annotated[int, Field(ge=0, le=MOST_SEEDS)] = Field(
        default=2, description="more seeds of each finalist; the best mean wins; 0: each with its own seed only"
    )
    resources: TrialResources = Field(default=TrialResources(), description="of one trial")


@dataclass(frozen=True)
class Sweep:
    """A search space, checked. `base` is unresolved: a trial's config is `make_config(merge(base, parameters))`."""

    source: str
    base: dict[str, Any]
    space: dict[str, Domain]
    points: tuple[dict[str, Any], ...]
    metric: str
    num_samples: int
    out_dir: str
    seed: int
    asha: Asha | None
    max_t: int
    resources: TrialResources
    finalists: int
    finalist_seeds: int
    search: str
    _configs: dict[str, Config] = field(default_factory=dict, init=False, repr=False, compare=False)

    def config(self, parameters: Mapping[str, Any] | None = None) -> Config:
        """The config of a trial; without parameters, the base's. Each is validated once. Raises UserError."""
        key = repr(parameters)
        if key not in self._configs:
            self._configs[key] = make_config(merge(self.base, parameters or {}), self.source)
        return self._configs[key]


def rungs(asha: Asha, max_t: int) -> tuple[tuple[int, ...], ...]:
    """The rungs of each bracket in iterations: grace_period * reduction_factor^k below max_t, from k = bracket on."""
    first: list[int] = []
    at = asha.grace_period
    while at < max_t:
        first.append(at)
        at *= asha.reduction_factor
    return tuple(tuple(first[bracket:]) for bracket in range(asha.brackets))
