"""The report of a sweep, made from its folder at any time: `python -m popgpt.report OUT`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from popgpt.terminal import arguments, program


def main(argv: Sequence[str] | None = None) -> None:
    """Write OUT/report.html and OUT/report.md from OUT/sweep.json. Raises UserError where there is none."""
    parser = arguments.Parser(
        prog="python -m popgpt.report",
        description="Make report.html and report.md of a sweep, ended or not, from its sweep.json.",
    )
    parser.add_argument("out", metavar="OUT", help="the sweep's folder")
    out_dir = Path(parser.parse_args(argv).out).resolve()

    from popgpt.sweep.report.files import HTML, write_report

    write_report(out_dir)
    program.tell(f"report: {out_dir / HTML}")


if __name__ == "__main__":
    program.run(main)
