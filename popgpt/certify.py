"""Ask a run every prompt of its task: `python -m popgpt.certify RUN_DIR [--workers N]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from popgpt.terminal import arguments, program
from popgpt.text.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Certify as the command line says. Returns the exit code."""
    parser = arguments.Parser(
        prog="python -m popgpt.certify",
        description="Ask a run every prompt of its task; wrong answers are counted, and kept in RUN_DIR/certificate.",
    )
    parser.add_argument(
        "run", metavar="RUN_DIR", help="folder of a run or a sweep, or a checkpoint file, by path or URI"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that ask (one for each core; on a GPU, 1)")
    parser.add_argument("--data-dir", help="folder of the datasets, where it has moved")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers={args.workers} should be at least 1")

    from popgpt.terminal.progress import CertificationProgress
    from popgpt.training.certification import certify

    progress = CertificationProgress()
    try:
        with progress:
            totals, wrong = certify(args.run, args.workers, args.device, args.data_dir, progress)
    except KeyboardInterrupt:
        program.say(f"{progress.describe()}; the same command goes on")
        raise
    print_totals(totals, wrong)
    return 0


def print_totals(totals: dict[str, Any], wrong: str) -> None:
    """Print a certificate for a person, in a few lines. wrong: where the wrong answers are."""
    for symbol, part in totals["by_operation"].items():
        print(f"  {symbol:<11}  {_counted(part)}")
    for split, part in totals["by_split"].items():
        print(f"  {'in no split' if split == 'none' else f'in {split}':<11}  {_counted(part)}")
    if totals["not_held"]:
        program.tell(f"  {totals['not_held']:,} prompts are wrong as view={totals['view']} can't hold them")
    if totals["wrong"]:
        program.tell(f"wrong answers: {wrong}")
    program.tell(f"iteration {totals['iteration']}: {_counted(totals)}")


def _counted(part: dict[str, int]) -> str:
    return f"{part['wrong']:,} wrong of {part['prompts']:,} prompts"


if __name__ == "__main__":
    program.run(main)
