"""Records runs with W&B, which keeps a copy in the run's folder and sends that by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from popgpt.storage.folder import Folder
from popgpt.tracking.identity import Identity, Value
from popgpt.tracking.tracker import Tracker


class Wandb(Tracker):
    """A connection to W&B."""

    def __init__(self, address: str = "") -> None:
        """Connect. Raises ImportError without wandb, or without a key and not offline; a key is never asked for."""
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        if os.environ.get("WANDB_MODE", "online") in ("online", "shared") and not wandb.login(prompt=False):
            raise ImportError("no W&B key: `wandb login`, or WANDB_MODE=offline")
        self._wandb = wandb
        self._runs: dict[str, Any] = {}

    def start(self, run: Identity, folder: str | None, again: bool) -> str:
        """Start or resume a run; W&B's files go to `folder`, if that is on this machine. Returns its id."""
        place = Folder(folder) if folder else None
        if place:
            place.make()
        started = self._wandb.init(
            project=run.project,
            name=run.name,
            group=run.group,
            config={**run.params, **run.tags},
            dir=str(place.path) if place and place.path else None,
            id=run.ids.get("wandb"),
            resume="allow" if "wandb" in run.ids else None,
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", init_timeout=30, x_disable_stats=True),
        )
        started.define_metric("iteration")
        started.define_metric("*", step_metric="iteration")
        self._runs[run.token] = started
        return str(started.id)

    def log_metrics(self, run: Identity, values: Sequence[Value]) -> None:
        found: dict[int, dict[str, float]] = {}
        for name, value, _, iteration in values:
            found.setdefault(iteration, {"iteration": iteration})[name] = value
        for row in found.values():
            self._run(run).log(row)

    def set_status(self, run: Identity, status: str) -> None:
        self._update_config(run, {"status": status})

    def log_artifact(self, run: Identity, path: str, folder: str | None) -> None:
        root = Path(path)
        for file in [root] if root.is_file() else [f for f in root.rglob("*") if f.is_file()]:
            self._run(run).save(str(file), base_path=str(root.parent), policy="now")

    def finish(
        self, run: Identity, status: str, values: Sequence[Value], tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        self.log_metrics(run, values)
        self._update_config(run, {**params, "status": status, **tags})
        self._run(run).finish(exit_code=int(status not in ("completed", "stopped")))

    def _update_config(self, run: Identity, values: Mapping[str, str]) -> None:
        self._run(run).config.update(dict(values), allow_val_change=True)

    def _run(self, run: Identity) -> Any:
        """Return W&B's run, which this process has started."""
        if run.token not in self._runs:
            raise KeyError("the run was not started")
        return self._runs[run.token]
