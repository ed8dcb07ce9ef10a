"""Sweep a search space: `python -m popgpt.tune SPACE [key=value ...] [--samples N] [--resume | --force]`."""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from popgpt.metrics.row import Row
from popgpt.storage.stores import is_uri, refuse_secrets
from popgpt.terminal import cli
from popgpt.text.errors import UserError

if TYPE_CHECKING:
    from popgpt.cluster.session import Resources
    from popgpt.data.dataset import Dataset
    from popgpt.sweep import schema
    from popgpt.sweep.asha import AshaScheduler
    from popgpt.sweep.placement import Placement
    from popgpt.sweep.record import Record
    from popgpt.sweep.schema import Sweep
    from popgpt.sweep.tracker import SweepTracker

LINES_BELOW = 14  # that are told under the table of the trials, at most
logger = logging.getLogger("popgpt")


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep as the command line says. Returns the exit code."""
    parser = cli.Parser(
        prog="python -m popgpt.tune",
        description="Find the best configuration of a search space with Ray Tune and ASHA.",
        epilog=cli.parameters_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("space", help="YAML file of the search space")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="the sweep's keys or the base config's; a swept one is pinned"
    )
    parser.add_argument("--samples", metavar="N", help="the same as num_samples=N; with --resume it may be larger")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on with the sweep in out_dir")
    start.add_argument("--force", action="store_true", help="start anew; a sweep in out_dir is moved to OUT_DIR.old-N")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: run trials that failed again, too")
    args = parser.parse_intermixed_args(argv)
    if args.retry_failed and not args.resume:
        parser.error("--retry-failed goes with --resume")

    from popgpt.sweep.space import load_sweep, warnings

    samples = [f"num_samples={args.samples}"] if args.samples else []
    sweep = load_sweep(args.space, [*args.overrides, *samples])
    for warning in warnings(sweep):
        logger.warning("%s", warning)
    return tune(sweep, args.resume, args.force, args.retry_failed)


def tune(sweep: Sweep, resume: bool, force: bool, retry_failed: bool) -> int:
    """Run the sweep's trials and finalists, score the winner on the test split, tell. Returns the exit code."""
    from popgpt import tracking
    from popgpt.cluster import session
    from popgpt.data.dataset import ensure_dataset
    from popgpt.storage.folder import Folder
    from popgpt.sweep.placement import place
    from popgpt.sweep.report.files import write_report_or_warn
    from popgpt.sweep.tracker import SweepTracker
    from popgpt.terminal.progress import waiting, waiting_for
    from popgpt.training.folder import check_place

    started = time.monotonic()
    refuse_secrets(sweep.out_dir, "out_dir: ")
    if is_uri(sweep.out_dir):
        raise UserError(f"out_dir={sweep.out_dir} should be a path: of a sweep, only this machine's or a shared one's")
    out_dir = Path(sweep.out_dir).resolve()
    record = begin(sweep, out_dir, resume, force, retry_failed)
    check_place(Folder(out_dir))
    base = cli.absolute(sweep.config())
    with waiting("preparing the dataset"):
        dataset = ensure_dataset(base)
    check_some_can_run(record, dataset)
    warn_of_long_lines(record, dataset)
    scheduler = asha_of(record)
    winner, status = None, "failed"
    connection = session.connected(lambda has: place(*demands(record, has), len(record.trials)))
    with waiting_for("starting Ray", connection) as resources:
        placed = placer(record, resources)
        make_place(out_dir, resume)
        record.write(out_dir)
        mirror = SweepTracker(record, out_dir, dataset, base, resume)
        try:
            run_all(record, out_dir, placed, scheduler, mirror)
            status = "interrupted" if record.unfinished() else "failed"
            winner = crown(record, out_dir, dataset, mirror) if not record.unfinished() else None
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            record.interrupt()
            record.write(out_dir, winner)
            write_report_or_warn(out_dir)
            mirror.finish(status, winner)
            with waiting(f"sending to {tracking.services()}"):
                tracking.flush()
    drop_states(record, out_dir)
    show(record, out_dir, winner, time.monotonic() - started, a_prompt(dataset, base.block_size))
    return 0 if winner else 130 if record.unfinished() else 1


def begin(sweep: Sweep, out_dir: Path, resume: bool, force: bool, retry_failed: bool) -> Record:
    """The record of a new sweep, or of the one to go on with. Raises UserError where a sweep is in the way."""
    from popgpt.sweep import draws, record, search

    if sweep.search == "optuna":
        search.load()
    trials = record.Record(sweep, draws.sample(sweep))
    if resume:
        failed = trials.take_up(record.read(out_dir), retry_failed)
        if failed:
            count = f"{failed} trial{'s' if failed > 1 else ''} that failed"
            words = f"running {count} again" if retry_failed else f"leaving {count} alone; see --retry-failed"
            logger.info("%s", words)
        catch_up(trials, out_dir)
    elif (out_dir / record.FILE).exists() and not force:
        raise UserError(
            f"out_dir={sweep.out_dir} holds a sweep already: go on with it by --resume, give another out_dir, "
            f"or start anew by --force, which moves it to {sweep.out_dir}.old-N"
        )
    return trials


def catch_up(record: Record, out_dir: Path) -> None:
    """Take from the folders of open trials what an earlier process was not told of, or did not live to write down.

    A trial's process outlives a killed driver by a moment, in which it may come to its next evaluation. Raises
    UserError where one is still at work.
    """
    from popgpt.storage.folder import Folder
    from popgpt.sweep.record import OPEN, trial_folder
    from popgpt.terminal.progress import waiting_for
    from popgpt.training.folder import claimed

    for name, run in record.runs.items():
        folder = trial_folder(out_dir, name)
        if run["status"] in OPEN and run["status"] != "paused" and folder.exists():  # a paused one has told all
            with waiting_for(f"waiting for the process of trial {name} to end", claimed(Folder(folder))):
                recall(record, out_dir, name)


def recall(record: Record, out_dir: Path, name: str, before: float = float("inf")) -> list[Row]:
    """Take what a trial logged of iterations under `before` from its folder: maybe nobody was told of all.

    Returns the rows that nobody was told of.
    """
    from popgpt.storage.folder import Folder
    from popgpt.sweep.record import trial_folder
    from popgpt.training.folder import read_metrics

    run, logged = record.runs[name], read_metrics(Folder(trial_folder(out_dir, name)))
    told = {row["iteration"] for row in run["metrics"]}
    earlier = [[row for row in rows if row["iteration"] < before] for rows in (run["metrics"], logged)]
    run["metrics"] = max(earlier, key=len)
    return [row for row in run["metrics"] if row["iteration"] not in told]


def check_some_can_run(record: Record, dataset: Dataset) -> None:
    """Raises UserError, the first trial's, where no trial's config gets rows of the dataset, and weights to start."""
    from popgpt.data.batches import make_rows
    from popgpt.training.run import given_weights

    refusals = []
    for name in record.open_trials():
        if record.trials[name]["status"] == "planned":
            break
        try:
            config = record.sweep.config(record.trials[name]["config"])
            make_rows(config, dataset, "train", config.seed)
            given_weights(config, dataset)
            return
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def warn_of_long_lines(record: Record, dataset: Dataset) -> None:
    """Say, once for all trials, how many lines are too long for the smallest of their block_sizes."""
    from popgpt.data.batches import describe_too_long, line_room
    from popgpt.data.meta import SPLITS

    configs = sorted((record.sweep.config(parameters) for parameters in record.drawn), key=line_room)
    if too_long := describe_too_long(configs[0], dataset.meta, SPLITS):
        some = "in some trials " if line_room(configs[0]) < line_room(configs[-1]) else ""
        logger.warning("%s%s", some, too_long)


def asha_of(record: Record) -> AshaScheduler | None:
    """The scheduler of the trials. It knows what an earlier process had it judge, and judges now what that was killed
    before it could write down.
    """
    from popgpt.sweep import asha, ranking

    scheduler = asha.scheduler(record.sweep)
    if scheduler and record.asha:
        scheduler.load_state(record.asha)
        record.reopen(scheduler.holds)
        for name, trial in record.trials.items():
            if name in record.open_trials() and trial["metrics"]:
                scheduler.add(name)
                judged = [scheduler.judge(name, row) for row in trial["metrics"]]
                if not all(judged) and ranking.iterations(trial) < record.sweep.max_t:
                    record.take(name, "paused" if scheduler.holds(name) else "ended", {}, scheduler.reason(name))
    record.asha = scheduler.state() if scheduler else None
    return scheduler


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


def placer(record: Record, resources: Resources) -> Callable[[int], Placement]:
    """Says where so many trials go. Where they may share GPUs, it asks once in a sweep what the largest takes of one.

    Raises UserError where they can't run here.
    """
    from popgpt.sweep import trials
    from popgpt.sweep.placement import GpuMemory, place, shares_gpus, too_tight
    from popgpt.training.memory import largest

    how, count = demands(record, resources), len(record.trials)
    if record.gpu is None and shares_gpus(*how, count):
        config = largest([record.sweep.config(parameters) for parameters in record.drawn])
        record.gpu = trials.probe_gpu(cli.absolute(config))
    memory = GpuMemory(**record.gpu) if record.gpu else None
    if warning := too_tight(place(*how, count, memory), memory):
        logger.warning("%s", warning)
    return lambda count: place(*how, count, memory)


def demands(record: Record, has: Resources) -> tuple[schema.Resources, Resources, int, str]:
    """What `place` is to know of a sweep's trials, but for their number."""
    base = record.sweep.config()
    return record.sweep.resources, has, base.workers, base.device


def run_all(
    record: Record,
    out_dir: Path,
    placed: Callable[[int], Placement],
    scheduler: AshaScheduler | None,
    mirror: SweepTracker,
) -> None:
    """Run what is unfinished: the trials under ASHA; then, once all have ended, the finalists to the full budget.

    After Ctrl-C or SIGTERM nothing more is started.
    """
    from popgpt.sweep import asha, trials
    from popgpt.sweep.progress import SweepProgress
    from popgpt.sweep.tracker import trial_config

    with SweepProgress(record) as progress:

        def run(names: list[str], judge: AshaScheduler | None, count: int) -> bool:
            silent: set[str] = set()

            def told(name: str, event: str, what: Row) -> None:
                if event == "started":
                    silent.add(name)
                elif event == "reported" and name in silent:
                    silent.remove(name)
                    untold = recall(record, out_dir, name, before=what["rows"][0]["iteration"])
                    what = {**what, "rows": [*untold, *what["rows"]]}
                record.take(name, event, what, judge.reason(name) if judge else None)
                record.note(out_dir, name, what.get("rows", ()), scheduler.changes() if scheduler else {})
                mirror.take(name, event, what)
                progress(name, event)

            def config_of(name: str) -> Row:
                if record.propose(name):
                    record.note(out_dir, name, (), {})
                return trial_config(record, out_dir, name).model_dump()

            ahead = not isinstance(judge, asha.PromotingScheduler) and not record.planned()
            return trials.run_trials(names, config_of, placed(count), judge, out_dir, told, ahead)

        stopped = run(record.open_trials(), scheduler, len(record.trials))
        if record.choose_finalists():
            record.write(out_dir)
            mirror.chosen()
            drop_states(record, out_dir)
        finals = len(record.finalists) * (1 + record.sweep.finalist_seeds)
        if not stopped:
            run(record.open_finals(), asha.to_the_end(record.sweep), finals)


def drop_states(record: Record, out_dir: Path) -> None:
    """Of the trials that have ended, leave but ckpt.pt, and one state where it may yet be gone on from."""
    from popgpt.storage.folder import Folder
    from popgpt.sweep.record import trial_folder
    from popgpt.training import folder

    for name in record.runs:
        if (kept := record.states_kept(name)) is not None:
            folder.drop_states(Folder(trial_folder(out_dir, name)), kept)


def crown(record: Record, out_dir: Path, dataset: Dataset, mirror: SweepTracker) -> Row | None:
    """Copy the winner's folder to OUT/best and score it, once, on the test split. None where no trial has a score.

    Of a finalist it is the run with the sweep's own seed. Where nothing has changed, an earlier process's score stands.
    """
    from popgpt.sweep import ranking
    from popgpt.terminal.progress import waiting
    from popgpt.training.checkpoint import open_model
    from popgpt.training.evaluation import evaluate_split
    from popgpt.training.world import pick_device

    winner = record.winner()
    if winner is None:
        return None
    name, best = winner["id"], out_dir / "best"
    found = {"id": name, "run_dir": str(best), "seed": record.seed(name)}
    at = ranking.best_row(winner, record.sweep.metric)["iteration"]
    if (record.scored.get("id"), record.scored.get("iteration")) == (name, at) and best.is_dir():
        return {**found, "test": record.scored["test"]}
    if untold := copy_outcome(record, out_dir, name, best):
        mirror.add(name, untold)
    model, _ = open_model(best, pick_device("auto"))
    with waiting("scoring the winner on the test split"):
        return {**found, "test": evaluate_split(model, dataset, "test")}


def copy_outcome(record: Record, out_dir: Path, name: str, best: Path) -> list[Row]:
    """Copy what a trial has come to, once its process is gone, and see that the record says the same of it.

    Of a group, told to stop, the workers go on until they hear of it, maybe to a better evaluation, and may be ended
    between its ckpt.pt and its result.json. Returns the rows that nobody was told of.
    """
    from popgpt.storage.folder import Folder
    from popgpt.sweep import ranking
    from popgpt.sweep.record import trial_folder
    from popgpt.terminal.progress import waiting_for
    from popgpt.training import folder
    from popgpt.training.checkpoint import load_best
    from popgpt.training.run import shown

    trained, new = trial_folder(out_dir, name), out_dir / ".best.new"
    for old in (best, new):
        shutil.rmtree(old, ignore_errors=True)
    new.mkdir()
    with waiting_for(f"waiting for the process of trial {name} to end", folder.claimed(Folder(trained))):
        for file in (*folder.outcome(Folder(trained)), folder.METRICS):
            shutil.copy(trained / file, new)
    scores = load_best(new)["scores"]
    folder.write_result(Folder(new), folder.read_result(Folder(new)) | shown(scores))
    untold = recall(record, out_dir, name, max(scores["iteration"], ranking.iterations(record.runs[name])) + 1)
    new.rename(best)
    return untold


def show(record: Record, out_dir: Path, winner: Row | None, seconds: float, prompt: str) -> None:
    """The answer: the ranked trials, the winner, where it is, and how to look further. prompt: what to ask it."""
    from popgpt import tracking
    from popgpt.sweep import ranking
    from popgpt.sweep.report.files import HTML

    show_trials(record, out_dir)
    total = sum(ranking.iterations(run) for run in record.runs.values())
    print(f"\n{len(record.runs)} trials, {total:,} iterations, {seconds:.0f} s")
    if record.unfinished():
        print(f"{len(record.unfinished())} trials are not finished; go on with the same command and --resume")
    if failed := sum(run["status"] == "failed" for run in record.runs.values()):
        words = "1 trial failed; run it" if failed == 1 else f"{failed} trials failed; run them"
        print(f"{words} again with the same command and --resume --retry-failed")
    if winner:
        show_winner(record, out_dir / "best", winner, prompt)
    if (out_dir / HTML).exists():
        cli.tell(f"report: {out_dir / HTML}")
    cli.tell(f"compare the runs: {tracking.ui_command()}")


def show_trials(record: Record, out_dir: Path) -> None:
    """The ranked trials and the finalists; on a terminal as many as leave room for the rest, and why some failed."""
    from rich.console import Console

    from popgpt.sweep import tables
    from popgpt.sweep.record import FILE

    console, metric = Console(highlight=False), record.sweep.metric
    ranked = tables.in_order([tables.standing(trial, metric) for trial in record.trials.values()], metric)
    if console.is_terminal:
        console.print(*tables.cropped(ranked, metric, console, max(10, console.height - LINES_BELOW)), sep="\n")
        if len(ranked) > console.height - LINES_BELOW:
            cli.tell(f"all trials: {out_dir / FILE}")
        for line in tables.describe_failures(record.runs.values(), console.width):
            print(line)
    else:
        console = Console(highlight=False, width=200)
        console.print(tables.table(ranked, metric))
    if record.finalists:
        by_mean = " by their mean" if record.sweep.finalist_seeds else ""
        print(f"\nfinalists,{by_mean} on the validation split")
        console.print(tables.finalists_table(record.results(), metric))


def show_winner(record: Record, best: Path, winner: Row, prompt: str) -> None:
    """The result, how it was come by, and what to do with it."""
    from popgpt.terminal.progress import describe_exact_match

    print(f"winner: trial {winner['id']}, on the test split: {describe_exact_match(winner['test'])}")
    seeds = 1 + record.sweep.finalist_seeds
    means = "" if not record.finalists else f" by the mean of {seeds} seeds" if seeds > 1 else " among the finalists"
    own = f"; this is the run of seed {winner['seed']}, the trial's own" if record.finalists else ""
    print(f"  chosen on the validation split{means}, scored once on the test split{own}")
    cli.tell(f"checkpoint: {best / 'ckpt.pt'}")
    cli.tell(f"train it again: python -m popgpt.train {shlex.quote(str(best / 'config.yaml'))} out_dir=out/again")
    cli.tell(f"ask it: python -m popgpt.sample {shlex.quote(str(best))} {shlex.quote(prompt)}")


def a_prompt(dataset: Dataset, longest: int) -> str:
    """A prompt of the validation split, with its separator, to ask a model; one whose line a row holds, if there is."""
    lines = dataset.split("val").lines(0, 100)
    fits = next((line for line in lines if len(line) <= longest), lines[0])
    return "".join(fits.partition(dataset.meta.separator)[:2])


if __name__ == "__main__":
    cli.run(main)
