"""Train one run: `python -m popgpt.train CONFIG [key=value ...] [--workers N] [--local]`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from popgpt.config import Config, load_config
from popgpt.metrics.row import Row, RunResult
from popgpt.terminal import arguments, program
from popgpt.text.errors import UserError

if TYPE_CHECKING:
    from popgpt.data.dataset import Dataset
    from popgpt.tracking import Run

logger = logging.getLogger("popgpt")
Fit = Callable[["Dataset", Callable[[Row], None], Callable[[], bool]], RunResult]


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says. Returns the exit code."""
    parser = arguments.config_parser("train", "Train one run, on Ray's workers or, with --local, in this process.")
    parser.add_argument("--workers", metavar="N|MIN:MAX", help="the same as workers=N, or min_workers=MIN workers=MAX")
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    args = parser.parse_intermixed_args(argv)
    config = arguments.absolute(load_config(args.config, [*args.overrides, *worker_words(args.workers)]))
    if args.local and config.workers > 1:
        raise UserError(f"--local is one process; workers={config.workers} needs Ray: leave out --local")
    result = train(config, args.local)
    print_result(config, result)
    return 0 if result["status"] == "completed" else 130


def worker_words(workers: str | None) -> list[str]:
    """What `--workers N` or `--workers MIN:MAX` stands for."""
    if not workers:
        return []
    fewest, colon, most = workers.partition(":")
    return [f"min_workers={fewest}", f"workers={most}"] if colon else [f"workers={workers}"]


def train(config: Config, local: bool) -> RunResult:
    """Prepare what is missing, train, and record it. Returns what result.json holds."""
    from popgpt.data.batches import describe_too_long
    from popgpt.data.dataset import ensure_dataset
    from popgpt.storage.folder import Folder
    from popgpt.terminal.progress import TrainingProgress, stop_on_interrupt, waiting
    from popgpt.training import folder

    run_folder = Folder(config.out_dir)
    with folder.explain_store_errors(run_folder):
        going_on = folder.is_resumable(config)
        folder.check_place(run_folder)
        check_can_start(config)
    with folder.explain_store_errors(run_folder), ready_alone(config) if local else ready_on_ray(config) as fit:
        with waiting("preparing the dataset"):
            dataset = ensure_dataset(config)
        with folder.claimed(run_folder, folder.DRIVER_LOCK, patience=0):
            going_on = going_on or folder.is_resumable(config)  # another command may have been faster
            if too_long := describe_too_long(config, dataset.meta):
                logger.warning("%s", too_long)
            record = begin_record(config, dataset, going_on)
            with ended(record, config) as end, TrainingProgress(config) as progress, stop_on_interrupt() as should_stop:

                def report(row: Row) -> None:
                    progress(row)
                    record.log([row])

                result = end(fit(dataset, report, should_stop))
    return result


def check_can_start(config: Config) -> None:
    """Raise UserError if the run can neither begin nor go on from what is there. It writes nothing.

    Torch is imported only if init_from asks for a checkpoint to be read: the driver of a group does not need it.
    """
    from popgpt.data.batches import make_rows
    from popgpt.data.dataset import find_dataset

    dataset = find_dataset(config)
    if dataset:
        for split in ("train", "val"):
            make_rows(config, dataset, split, config.seed)
    if config.init_from != "scratch":
        from popgpt.training.state import check_checkpoint

        check_checkpoint(config, dataset)


def begin_record(config: Config, dataset: Dataset, going_on: bool) -> Run:
    """Begin to record the run; with `going_on`, go on with the record that it has."""
    from popgpt import tracking
    from popgpt.data.batches import count_left_out
    from popgpt.storage.folder import Folder
    from popgpt.training import folder

    run_folder = Folder(config.out_dir)
    if not going_on:
        folder.write_config(config)
    return tracking.start(
        config,
        experiment=config.experiment or config.dataset,
        name=config.wandb_run_name or run_folder.name,
        params=config.model_dump(),
        tags={
            "dataset_fingerprint": dataset.meta.fingerprint,
            "lines_left_out": count_left_out(config, dataset.meta),
        },
        folder=config.out_dir,
        resume=going_on,
    )


@contextmanager
def ended(record: Run, config: Config) -> Iterator[Callable[[RunResult], RunResult]]:
    """Ends the record as the run ends; yields what takes its result."""
    from popgpt import tracking
    from popgpt.storage.folder import Folder
    from popgpt.terminal.progress import waiting
    from popgpt.training import folder

    status, result = "failed", None

    def take(found: RunResult) -> RunResult:
        nonlocal status, result
        status, result = found["status"], found
        return found

    try:
        yield take
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        with folder.local_outcome(Folder(config.out_dir)) as paths:
            for path in paths:
                record.artifact(path)
            record.finish(status, result)
            with waiting(f"sending to {tracking.services()}"):
                tracking.flush()


@contextmanager
def ready_alone(config: Config) -> Iterator[Fit]:
    """`fit` in this process, once its device is there."""
    from popgpt.training.loop import fit
    from popgpt.training.world import World, pick_device

    world = World(pick_device(config.device))
    yield lambda dataset, report, should_stop: fit(config, dataset, world, report, should_stop)


@contextmanager
def ready_on_ray(config: Config) -> Iterator[Fit]:
    """`fit` on the workers of a Ray group, once Ray is there and has what they need."""
    from popgpt.cluster import session
    from popgpt.cluster.group import train_on_workers
    from popgpt.terminal.progress import waiting_for

    def each_of(has: session.Resources) -> dict[str, float]:
        return has.per_worker(config.workers, config.device, config.min_workers)

    with waiting_for("starting Ray", session.connected(each_of)) as resources:
        each = each_of(resources)
        yield lambda dataset, report, should_stop: train_on_workers(config, each, report, should_stop)


def print_result(config: Config, result: RunResult) -> None:
    """What a person wants to know at the end."""
    from popgpt.terminal.progress import describe_scores

    if result["status"] == "interrupted":
        print(f"stopped at iteration {result['last_iteration']}; the same command goes on")
    if "exact_match" in result:
        print(f"best on the validation split, at iteration {result['iteration']}: {describe_scores(result)}")
        program.tell(f"checkpoint: {result['checkpoint']}")
        program.tell(f"next: python -m popgpt.evaluate {shlex.quote(config.out_dir)} --split test")


if __name__ == "__main__":
    program.run(main)
