"""Send MLflow what it lacks of a run or a sweep: `python -m popgpt.track sync RUN_DIR`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from popgpt.storage.folder import Folder, absolute
from popgpt.terminal import arguments, program
from popgpt.text.errors import UserError
from popgpt.text.redaction import one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code."""
    parser = arguments.Parser(prog="python -m popgpt.track", description="What MLflow has of your runs.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    sending = commands.add_parser("sync", help="send MLflow what it lacks of a run or a sweep; may be repeated")
    sending.add_argument("folder", metavar="RUN_DIR", help="out_dir of a run or of a sweep")
    args = parser.parse_args(argv)
    sync(args.folder)
    return 0


def sync(where: str | Path) -> None:
    """Send what MLflow lacks of the run or the sweep in a folder, by path or URI, and print a line for each run.

    It compares before it sends, so it may be interrupted and repeated. MLflow is that of MLFLOW_TRACKING_URI, by
    default that of tracking.json.

    Raises:
        UserError: no run is here, or it is being trained.
        ConnectionError: MLflow does not answer, or refuses.
    """
    from rich.console import Console
    from rich.markup import escape

    from popgpt.sweep.record import FILE
    from popgpt.sweep.recorded import recorded_sweep
    from popgpt.terminal.progress import unbreakable
    from popgpt.tracking.sync import connect, send
    from popgpt.training.folder import local_outcome
    from popgpt.training.recorded import recorded_run

    folder = Folder(absolute(str(where)))
    runs = recorded_sweep(folder) if FILE in folder.names() else [recorded_run(folder)]
    recorded_uri, parent = runs[0].identity.uri, None
    place, console = escape(one_line(recorded_uri)), unbreakable(Console(stderr=True))
    with console.status(f"connecting to {place}") as status, connect(recorded_uri) as mlflow:
        for run in runs:
            name, run.identity.parent = one_line(run.identity.name), parent
            status.update(f"run {escape(name)}: comparing with {place}")
            with locked(run.folder) as free:
                if not free and parent is None:
                    raise UserError(f"{folder.where} is in use: its run is going on, and sends what it logs itself")
                with local_outcome(run.folder) as files:
                    line = send(mlflow, run, files) if free else "is going on, left alone"
            program.tell(f"run {name}: {line}")
            parent = parent or run.identity.ids["mlflow"]


@contextmanager
def locked(folder: Folder) -> Iterator[bool]:
    """Keep others from training in a folder. Yields False if somebody does."""
    from popgpt.training.folder import DRIVER_LOCK, WRITER_LOCK, claimed

    with ExitStack() as stack:
        try:
            for lock in (DRIVER_LOCK, WRITER_LOCK):
                stack.enter_context(claimed(folder, lock, patience=0))
        except UserError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    program.run(main)
