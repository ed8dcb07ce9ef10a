"""Send MLflow what it lacks of a run or a sweep: `python -m popgpt.track sync RUN_DIR`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt.config import make_config
from popgpt.storage.folder import Folder, absolute
from popgpt.terminal import cli
from popgpt.text.errors import UserError
from popgpt.text.redaction import HIDDEN, one_line, shown, without_secrets

if TYPE_CHECKING:
    from popgpt.tracking.identity import Identity
    from popgpt.tracking.mlflow import Mlflow

Row = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Do as the command line says. Returns the exit code."""
    parser = cli.Parser(prog="python -m popgpt.track", description="What MLflow has of your runs.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    sending = commands.add_parser("sync", help="send MLflow what it lacks of a run or a sweep; may be repeated")
    sending.add_argument("folder", metavar="RUN_DIR", help="out_dir of a run or of a sweep")
    args = parser.parse_args(argv)
    sync(args.folder)
    return 0


@dataclass
class Story:
    """A run as its folder tells it."""

    folder: Folder
    identity: Identity
    status: str | None = None  # None: the folder does not say
    final: Row = field(default_factory=dict)
    split: str = "val"  # of `final`
    winner: dict[str, str] = field(default_factory=dict)  # its parameters, of a sweep
    ending: dict[str, str] = field(default_factory=dict)  # tags beside the status
    artifacts: list[tuple[Path, str | None]] = field(default_factory=list)  # beside the run's own
    ended_at: int | None = None  # ms since 1970, of what has trained nothing


def sync(where: str | Path) -> None:
    """Send what MLflow lacks of the run or the sweep in a folder, by path or URI, and print a line a run.

    It compares before it sends, so it may be interrupted and repeated. MLflow is that of tracking.json, or where it is
    set that of MLFLOW_TRACKING_URI.

    Raises:
        UserError: no run is here, or it is going on.
        ConnectionError: MLflow does not answer, or refuses.
    """
    from rich.console import Console
    from rich.markup import escape

    from popgpt.sweep.record import FILE
    from popgpt.terminal.progress import unbreakable

    folder = Folder(absolute(str(where)))
    stories = sweep_stories(folder) if FILE in folder.names() else [run_story(folder)]
    kept, parent = stories[0].identity.uri, None
    place, console = escape(one_line(kept)), unbreakable(Console(stderr=True))
    with console.status(f"connecting to {place}") as status, connected(kept) as mlflow:
        for story in stories:
            name, story.identity.parent = one_line(story.identity.name), parent
            status.update(f"run {escape(name)}: comparing with {place}")
            with held(story.folder) as free:
                if not free and parent is None:
                    raise UserError(f"{folder.where} is in use: its run is going on, and sends what it logs itself")
                line = send(mlflow, story) if free else "is going on, left alone"
            cli.tell(f"run {name}: {line}")
            parent = parent or story.identity.ids["mlflow"]


@contextmanager
def connected(kept: str) -> Iterator[Mlflow]:
    """MLflow at MLFLOW_TRACKING_URI, or else where tracking.json has it, which keeps no password. Its errors end as
    ConnectionError.
    """
    from popgpt import tracking
    from popgpt.tracking.mlflow import Mlflow, reaching

    given = os.environ.get("MLFLOW_TRACKING_URI")
    remedy = "; it was recorded with a password or a token: set MLFLOW_TRACKING_URI to the whole address"
    with reaching(kept, remedy if HIDDEN in kept and not given else ""):
        yield Mlflow(tracking.tracking_uri() if given else without_secrets(kept))


@contextmanager
def held(folder: Folder) -> Iterator[bool]:
    """Keep others from training here. False where somebody does."""
    from popgpt.training.folder import DRIVER_LOCK, WRITER_LOCK, claimed

    with ExitStack() as stack:
        try:
            for lock in (DRIVER_LOCK, WRITER_LOCK):
                stack.enter_context(claimed(folder, lock, patience=0))
        except UserError:
            yield False
        else:
            yield True


def send(mlflow: Mlflow, story: Story) -> str:
    """Send what MLflow lacks of a run. Returns what that was, in one line."""
    from popgpt.tracking import identity
    from popgpt.training.folder import local_outcome

    this = story.identity
    identity.write(story.folder, this)  # before MLflow has the run, so that its token is never lost
    found = mlflow.find(this)
    this.ids["mlflow"] = run_id = found or mlflow.create(this)
    identity.write(story.folder, this)
    parent = {"mlflow.parentRunId": this.parent} if this.parent else {}
    texts = mlflow.describe(run_id, this.params, {**this.tags, **parent})
    texts += mlflow.adopt(run_id, story.winner)
    values = [*this.values(identity.rows(story.folder)), *this.final(story.final, story.split)]
    missing = mlflow.log(run_id, values)
    with local_outcome(story.folder) as outcome:
        artifacts = [*((path, None) for path in outcome), *story.artifacts]
        files = [name for path, place in artifacts for name in mlflow.store(run_id, path, place)]
    running = mlflow.known(run_id).status == "RUNNING"
    status = story.status or ("interrupted" if running else None)
    ended = mlflow.end(run_id, status, story.ending, story.ended_at or this.begun) if status else False
    sent = [*(["parameters and tags"] if texts else []), *files, *([f"status {status}"] if ended else [])]
    return (
        f"{missing} of {len(values)} values were missing{', sent' if missing else ''}"
        f"{'; sent too: ' if sent else ''}{', '.join(sent)}"
    )


def run_story(folder: Folder) -> Story:
    """The story of a single run. Raises UserError where there is none."""
    from popgpt.training.folder import ERROR, read_result

    this = identity_of(folder, None)
    result = read_result(folder)
    failed = "failed" if ERROR in folder.names() else None
    status = "completed" if result.get("status") == "completed" else this.status or failed
    return Story(folder, this, status, result)


def sweep_stories(folder: Folder) -> list[Story]:
    """The story of a sweep, then those of its trials that were begun, the finalists' repeats included."""
    from popgpt.sweep.ranking import iterations
    from popgpt.sweep.record import FILE, read

    assert folder.path  # a sweep's folder is on this machine
    record = read(folder.path)
    whole = identity_of(folder, record)
    finalists = {each["id"] for each in record.get("finalists", [])}
    told = [*record["trials"], *record.get("repeats", [])]
    trials = [trial_story(folder, trial, record["metric"], whole, finalists) for trial in told]
    begun = [story for story in trials if story]
    winner = record["best"] or {}
    parent = Story(folder, whole, whole.status, artifacts=[(folder.path / FILE, None)])
    parent.ended_at = round(1000 * (folder.path / FILE).stat().st_mtime)  # it was written last when the sweep ended
    if "test" in winner:
        parent.winner = next((one.identity.params for one in begun if one.folder.name == winner["id"]), {})
        parent.status, parent.split = "completed", "test"
        parent.final = {**winner["test"], "iteration": sum(map(iterations, told))}
        parent.ending = {"best_trial": winner["id"], "split": "test"}
        if (folder.path / "best").is_dir():
            parent.artifacts.append((folder.path / "best", "best"))
    return [parent, *begun]


def trial_story(folder: Folder, trial: Row, metric: str, whole: Identity, finalists: set[str]) -> Story | None:
    """The story of a trial; None where it has not been begun."""
    from popgpt.sweep.ranking import best_row
    from popgpt.tracking.identity import tags_of
    from popgpt.training.folder import CONFIG

    place = folder / "trials" / trial["id"]
    if CONFIG not in place.names():
        return None
    this = identity_of(place, None)
    if not this.tags:
        this.name, this.group = f"{whole.name}/{trial['id']}", whole.name
        this.tags = whole.tags | tags_of({"trial": trial["id"]})
    finalist = trial.get("of", trial["id"])
    this.tags |= {"finalist": finalist} if finalist in finalists else {}
    this.uri = whole.uri
    ended = trial["status"] if trial["status"] in ("completed", "stopped", "failed") else "interrupted"
    reason = tags_of({"reason": trial["reason"]})
    return Story(place, this, ended, best_row(trial, metric), ending=reason)


def identity_of(folder: Folder, sweep: Row | None) -> Identity:
    """Which run a folder's is at MLflow: what tracking.json says, or else what it would have said. `sweep`: what
    sweep.json holds, where the folder is a sweep's. Raises UserError where the folder is no run's.
    """
    from popgpt import tracking
    from popgpt.tracking import identity
    from popgpt.training.folder import CONFIG, read_config

    given = shown(tracking.tracking_uri()) if os.environ.get("MLFLOW_TRACKING_URI") else None
    kept = identity.read(folder)
    if kept:
        kept.uri = given or kept.uri
        kept.params = {} if sweep else kept.params  # a sweep's are its winner's
        return kept
    if sweep is None and CONFIG not in folder.names():
        raise UserError(
            f"{folder.where} is no run's folder, which has a {CONFIG}, and no sweep's, which has a sweep.json"
        )
    config = make_config(sweep["sweep"]["base"] if sweep else read_config(folder), folder.where)
    name = folder.name if sweep else config.wandb_run_name or folder.name
    tags = {"sweep": folder.name} if sweep else {}
    return identity.Identity(
        given or shown(tracking.tracking_uri()),
        config.experiment or config.dataset,
        name,
        {} if sweep else identity.params_of(config.model_dump()),
        identity.tags_of(tags),
        config.wandb_project,
    )


if __name__ == "__main__":
    cli.run(main)
