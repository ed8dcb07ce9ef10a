"""The report of a sweep, made from its folder at any time: `python -m popgpt.report OUT`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from popgpt.terminal import cli

HTML, MARKDOWN = "report.html", "report.md"
logger = logging.getLogger("popgpt")


def main(argv: Sequence[str] | None = None) -> None:
    """Write OUT/report.html and OUT/report.md from OUT/sweep.json. Raises UserError where there is none."""
    parser = cli.Parser(
        prog="python -m popgpt.report",
        description="Make report.html and report.md of a sweep, ended or not, from its sweep.json.",
    )
    parser.add_argument("out", metavar="OUT", help="the sweep's folder")
    out_dir = Path(parser.parse_args(argv).out).resolve()
    write(out_dir)
    cli.tell(f"report: {out_dir / HTML}")


def write(out_dir: Path) -> None:
    """Replace OUT/report.html and OUT/report.md by what the sweep has recorded. Raises UserError and OSError."""
    from popgpt.storage.folder import write_atomic
    from popgpt.sweep import stored
    from popgpt.sweep.report.importance import study
    from popgpt.sweep.report.markdown import markdown
    from popgpt.sweep.report.page import page

    content = stored.read(out_dir)
    found = study(content)
    for name, draw in ((HTML, page), (MARKDOWN, markdown)):
        write_atomic(out_dir / name, draw(content, found, str(out_dir)).encode("utf-8", "replace"))


def attempt(out_dir: Path) -> bool:
    """Write the report of a sweep, which must not fail by it. Whether that went well; if not, there is a warning."""
    try:
        write(out_dir)
    except Exception as error:
        logger.warning("the report was not made: %s: %s", type(error).__name__, error)
        return False
    return True


if __name__ == "__main__":
    cli.run(main)
