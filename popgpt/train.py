"""Train one run: `python -m popgpt.train CONFIG [key=value ...] [--workers N] [--local]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt import cli
from popgpt.config import Config, UserError, load_config

if TYPE_CHECKING:
    from popgpt.data.dataset import Dataset

Row = dict[str, Any]
Fit = Callable[["Dataset", Callable[[Row], None], Callable[[], bool]], Row]


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says. Returns the exit code."""
    parser = cli.config_parser("train", "Train one run, on Ray's workers or, with --local, in this process.")
    parser.add_argument("--workers", metavar="N", help="the same as workers=N")
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    args = parser.parse_intermixed_args(argv)
    workers = [f"workers={args.workers}"] if args.workers else []
    config = cli.absolute(load_config(args.config, [*args.overrides, *workers]))
    if args.local and config.workers > 1:
        raise UserError(f"--local is one process; workers={config.workers} needs Ray: leave out --local")
    result = train(config, args.local)
    print_result(config, result)
    return 0 if result["status"] == "completed" else 130


def train(config: Config, local: bool) -> Row:
    """Prepare what is missing, train, and record it. Returns what result.json holds."""
    from popgpt import tracking
    from popgpt.data.dataset import ensure_dataset
    from popgpt.progress import TrainingProgress, stop_on_interrupt
    from popgpt.training import folder

    folder.check_free(config)
    with ready_alone(config) if local else ready_on_ray(config) as fit:
        dataset = ensure_dataset(config)
        folder.make(config)
        record = tracking.start(
            config,
            experiment=config.experiment or config.dataset,
            name=config.wandb_run_name or Path(config.out_dir).name,
            params=config.model_dump(),
            tags={"dataset_fingerprint": dataset.meta.fingerprint},
            folder=config.out_dir,
            resume=config.init_from == "resume",
        )
        status, result = "failed", None
        try:
            with TrainingProgress(config) as progress, stop_on_interrupt() as should_stop:

                def report(row: Row) -> None:
                    progress(row)
                    record.log([row])

                result = fit(dataset, report, should_stop)
            status = result["status"]
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            for path in folder.outcome(Path(config.out_dir)):
                record.artifact(path)
            record.finish(status, result)
            tracking.flush()
    return result


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

    with session.connected() as resources:
        each = resources.per_worker(config.workers, config.device)
        yield lambda dataset, report, should_stop: train_on_workers(config, each, report, should_stop)


def print_result(config: Config, result: Row) -> None:
    """What a person wants to know at the end."""
    from popgpt.progress import describe_scores

    if result["status"] == "interrupted":
        print(f"stopped at iteration {result['last_iteration']}; go on with init_from=resume and the same out_dir")
    if "exact_match" in result:
        print(f"best on the validation split, at iteration {result['iteration']}: {describe_scores(result)}")
        print(f"checkpoint: {result['checkpoint']}")
        print(f"next: python -m popgpt.evaluate {config.out_dir} --split test")


if __name__ == "__main__":
    cli.run(main)
