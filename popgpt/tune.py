"""Sweep a search space: `python -m popgpt.tune SPACE [key=value ...] [--samples N] [--resume | --force]`."""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt import cli
from popgpt.config import Config, UserError
from popgpt.stores import is_uri

if TYPE_CHECKING:
    from popgpt.data.dataset import Dataset
    from popgpt.sweep.record import Record
    from popgpt.sweep.space import Sweep
    from popgpt.tracking import Run

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep as the command line says. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m popgpt.tune",
        description="Find the best configuration of a search space with Ray Tune and ASHA.",
        epilog=cli.parameters_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("space", help="YAML file of the search space")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="the sweep's keys or the base config's; a swept one is pinned"
    )
    parser.add_argument("--samples", metavar="N", help="the same as num_samples=N")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on with the sweep in out_dir")
    start.add_argument("--force", action="store_true", help="start anew; a sweep in out_dir is moved to OUT_DIR.old-N")
    args = parser.parse_intermixed_args(argv)

    from popgpt.sweep.space import load_sweep

    samples = [f"num_samples={args.samples}"] if args.samples else []
    return tune(load_sweep(args.space, [*args.overrides, *samples]), args.resume, args.force)


def tune(sweep: Sweep, resume: bool, force: bool) -> int:
    """Run the sweep's trials, pick the winner, score it on the test split, tell. Returns the exit code."""
    from popgpt import report, tracking
    from popgpt.cluster import session, trials
    from popgpt.data.dataset import ensure_dataset
    from popgpt.progress import SweepProgress
    from popgpt.sweep import asha

    started = time.monotonic()
    if is_uri(sweep.out_dir):
        raise UserError(f"out_dir={sweep.out_dir} should be a path: of a sweep, only this machine's or a shared one's")
    out_dir = Path(sweep.out_dir).resolve()
    record = begin(sweep, out_dir, resume, force)
    base = cli.absolute(sweep.config())
    dataset = ensure_dataset(base)
    check_some_can_run(record, dataset)
    scheduler = asha.scheduler(sweep)
    if scheduler and record.asha:
        scheduler.load_state(record.asha)
    winner, status = None, "failed"
    with session.connected(dashboard=base.workers > 1) as resources:
        trials.check_fits(sweep, base.device, resources)
        make_place(out_dir, resume)
        mirror = Mirror(record, out_dir, dataset, base, resume)
        try:
            with SweepProgress(record) as progress:

                def told(name: str, event: str, what: Row) -> None:
                    record.take(name, event, what, scheduler.reason(name) if scheduler else None)
                    record.write(out_dir, scheduler.state() if scheduler else None)
                    mirror.take(name, event, what)
                    progress(name, event)

                going = record.unfinished()
                configs = {name: trial_config(record, out_dir, name).model_dump() for name in going}
                trials.run_trials(sweep, configs, base.workers, resources, scheduler, out_dir, told)
            status = "interrupted" if record.unfinished() else "failed"
            winner = crown(record, out_dir, dataset) if not record.unfinished() else None
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            record.interrupt()
            record.write(out_dir, scheduler.state() if scheduler else None, winner)
            report.attempt(out_dir)
            mirror.finish(status, winner)
            tracking.flush()
    show(record, out_dir, winner, time.monotonic() - started)
    return 0 if winner else 130 if record.unfinished() else 1


def begin(sweep: Sweep, out_dir: Path, resume: bool, force: bool) -> Record:
    """The record of a new sweep, or of the one to go on with. Raises UserError where a sweep is in the way."""
    from popgpt.files import Folder
    from popgpt.sweep import record, space
    from popgpt.training.folder import read_metrics

    trials = record.Record(sweep, space.sample(sweep))
    if resume:
        trials.take_up(record.read(out_dir))
        for name in trials.unfinished():
            # a killed sweep may not have been told of all that a trial logged
            logged = read_metrics(Folder(out_dir / "trials" / name))
            trials.trials[name]["metrics"] = logged or trials.trials[name]["metrics"]
    elif (out_dir / record.FILE).exists() and not force:
        raise UserError(
            f"out_dir={sweep.out_dir} holds a sweep already: go on with it by --resume, give another out_dir, "
            f"or start anew by --force, which moves it to {sweep.out_dir}.old-N"
        )
    return trials


def check_some_can_run(record: Record, dataset: Dataset) -> None:
    """Raises UserError, the first trial's, where the dataset makes rows for no trial's config."""
    from popgpt.data.batches import make_rows

    refusals = []
    for name in record.unfinished():
        try:
            config = record.sweep.config(record.trials[name]["config"])
            make_rows(config, dataset, "train", config.seed)
            return
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def make_place(out_dir: Path, resume: bool) -> None:
    """Make OUT. What an earlier sweep left there stays for --resume, else it is moved aside."""
    from popgpt.sweep import record

    if not resume and (out_dir / record.FILE).exists():
        number = next(n for n in range(1, 10**6) if not out_dir.with_name(f"{out_dir.name}.old-{n}").exists())
        out_dir.rename(out_dir.with_name(f"{out_dir.name}.old-{number}"))
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out_dir={out_dir}: {error.strerror}") from None


def trial_config(record: Record, out_dir: Path, name: str) -> Config:
    """The config of a trial: it has a folder of its own."""
    config = record.sweep.config(record.trials[name]["config"])
    return cli.absolute(config.model_copy(update={"out_dir": str(out_dir / "trials" / name)}))


def crown(record: Record, out_dir: Path, dataset: Dataset) -> Row | None:
    """Copy the winner's folder to OUT/best and score it, once, on the test split. None where no trial has a score."""
    from popgpt.sweep import report
    from popgpt.training.checkpoint import open_model
    from popgpt.training.evaluation import evaluate_split
    from popgpt.training.folder import WRITER_LOCK
    from popgpt.training.world import pick_device

    winner = report.best(list(record.trials.values()), record.sweep.metric)
    if winner is None:
        return None
    best, new = out_dir / "best", out_dir / ".best.new"
    for old in (best, new):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(
        out_dir / "trials" / winner["id"], new, ignore=shutil.ignore_patterns("state-*", WRITER_LOCK, "tracking.json")
    )
    new.rename(best)
    model, _ = open_model(best, pick_device("auto"))
    return {"id": winner["id"], "run_dir": str(best), "test": evaluate_split(model, dataset, "test")}


class Mirror:
    """The sweep in MLflow and W&B: a parent run, and a child for each trial."""

    def __init__(self, record: Record, out_dir: Path, dataset: Dataset, base: Config, resume: bool):
        self._record = record
        self._out_dir = out_dir
        self._fingerprint = dataset.meta.fingerprint
        self._resume = resume
        self._parent = self._start(out_dir.name, base, None, out_dir)
        self._runs: dict[str, Run] = {}
        self._ended: dict[str, Run] = {}

    def _start(self, name: str, config: Config, trial: str | None, folder: Path) -> Run:
        from popgpt import tracking

        return tracking.start(
            config,
            experiment=config.experiment or config.dataset,
            name=name,
            params=config.model_dump(),
            tags={
                "sweep": self._out_dir.name,
                "trial": trial,
                "search_space": self._record.sweep.source,
                "dataset_fingerprint": self._fingerprint,
            },
            parent=self._parent if trial else None,
            folder=folder,
            resume=self._resume,
        )

    def take(self, name: str, event: str, what: Row) -> None:
        """Mirror what Ray Tune tells of a trial."""
        if event == "started" and name in self._runs:
            return  # it was restarted, and is the same run
        if event == "started":
            config = trial_config(self._record, self._out_dir, name)
            self._runs[name] = self._start(f"{self._out_dir.name}/{name}", config, name, Path(config.out_dir))
        elif event == "reported":
            self._runs[name].log(what["rows"])
        else:
            self._end(name)

    def _end(self, name: str) -> None:
        from popgpt.sweep import report

        if name not in self._runs:
            return  # it failed before it started
        trial, run = self._record.trials[name], self._runs.pop(name)
        run.finish(trial["status"], report.best_row(trial, self._record.sweep.metric), {"reason": trial["reason"]})
        self._ended[name] = run

    def finish(self, status: str, winner: Row | None) -> None:
        """Mirror the end of the sweep, of the trials that it cut short, and the files, which are all written by now."""
        from popgpt import report
        from popgpt.files import Folder
        from popgpt.sweep import record
        from popgpt.training.folder import outcome

        for name in list(self._runs):
            self._end(name)
        for name, run in self._ended.items():
            trial_dir = self._out_dir / "trials" / name
            for file in outcome(Folder(trial_dir)):
                run.artifact(trial_dir / file)
        for path in (self._out_dir / name for name in (record.FILE, report.HTML, report.MARKDOWN)):
            if path.exists():
                self._parent.artifact(path)
        if winner:
            self._parent.artifact(winner["run_dir"], "best")
            self._parent.finish("completed", winner["test"], {"best_trial": winner["id"], "split": "test"})
        else:
            self._parent.finish(status)


def show(record: Record, out_dir: Path, winner: Row | None, seconds: float) -> None:
    """The answer: the ranked trials, the winner, where it is, and how to look further."""
    from rich.console import Console

    from popgpt import tracking
    from popgpt.progress import describe_exact_match
    from popgpt.report import HTML
    from popgpt.sweep import report

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(report.table(list(record.trials.values()), record.sweep.metric))
    total = sum(report.iterations(trial) for trial in record.trials.values())
    print(f"\n{len(record.trials)} trials, {total:,} iterations, {seconds:.0f} s")
    if record.unfinished():
        print(f"{len(record.unfinished())} trials are not finished; go on with the same command and --resume")
    if winner:
        print(f"winner: trial {winner['id']}, on the test split: {describe_exact_match(winner['test'])}")
        print("  chosen on the validation split, scored once on the test split")
        print(f"checkpoint: {out_dir / 'best' / 'ckpt.pt'}")
        config = shlex.quote(str(out_dir / "best" / "config.yaml"))
        print(f"train it again: python -m popgpt.train {config} out_dir=out/again")
        print(f"ask it: python -m popgpt.sample {shlex.quote(str(out_dir / 'best'))} '12.5+7.3='")
    if (out_dir / HTML).exists():
        print(f"report: {out_dir / HTML}")
    print(f"compare the runs: {tracking.ui_command()}")


if __name__ == "__main__":
    cli.run(main)
