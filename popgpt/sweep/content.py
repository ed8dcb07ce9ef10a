"""What sweep.json says of a sweep, for its report and for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from popgpt.config import Config
from popgpt.sweep.events import ENDED
from popgpt.sweep.schema import Asha, rungs
from popgpt.sweep.trial import Trial


@dataclass(frozen=True)
class Content:
    """A sweep as sweep.json has it."""

    metric: str
    trials: list[Trial]
    repeats: list[Trial]  # the finalists' runs with other seeds
    finalists: list[dict[str, Any]]  # each as `finals.result` has it, the best mean first
    best: dict[str, Any]  # the winner, or the best trial so far, without its rows; {} if no trial has a score
    definition: dict[str, Any]  # as `record.definition` has it

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Content:
        """Return the content that `journal.read` has read."""
        trials, repeats = (list(map(Trial.from_json, content.get(kind, []))) for kind in ("trials", "repeats"))
        finalists, best = content.get("finalists", []), content["best"] or {}
        return cls(content["metric"], trials, repeats, finalists, best, content["sweep"])

    @property
    def runs(self) -> list[Trial]:
        """The trials, then the repeats."""
        return [*self.trials, *self.repeats]

    @property
    def open_runs(self) -> list[Trial]:
        """The trials and repeats that have not ended."""
        return [trial for trial in self.runs if trial.status not in ENDED]

    @property
    def best_trial(self) -> Trial | None:
        """The trial that `best` names."""
        return next((trial for trial in self.trials if trial.id == self.best.get("id")), None)

    @property
    def space(self) -> dict[str, dict[str, Any]]:
        """The domains of the swept parameters, each with its kind and values."""
        return self.definition.get("space", {})

    @cached_property
    def swept(self) -> list[str]:
        """The swept parameters, in the space's order."""
        return list(dict.fromkeys([*self.space, *(name for trial in self.trials for name in trial.config)]))

    @cached_property
    def rungs(self) -> list[int]:
        """The iterations of the rungs of all brackets, lowest first."""
        if not self.definition.get("asha"):
            return []
        brackets = rungs(Asha(**self.definition["asha"]), self.definition["max_t"])
        return sorted({at for bracket in brackets for at in bracket})

    def budget(self, trial: Trial) -> int:
        """Return the iterations that a trial would take if nothing stopped it."""
        max_iters = {**self.definition.get("base", {}), **trial.config}.get("max_iters")
        whole = int(max_iters or Config.model_fields["max_iters"].default)
        return min(whole, self.definition.get("max_t", whole))
