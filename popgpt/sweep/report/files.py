"""The two files of a sweep's report, report.html and report.md, in the sweep's folder."""

from __future__ import annotations

import logging
from pathlib import Path

from popgpt.storage.folder import write_atomic
from popgpt.sweep import journal
from popgpt.sweep.content import Content
from popgpt.sweep.report.importance import study
from popgpt.sweep.report.markdown import markdown
from popgpt.sweep.report.page import page

HTML, MARKDOWN = "report.html", "report.md"
logger = logging.getLogger("popgpt")


def write_report(out_dir: Path) -> None:
    """Replace both files by the report of what the sweep in `out_dir` has recorded. Raises UserError and OSError."""
    content = Content.from_json(journal.read(out_dir))
    found = study(content)
    for name, draw in ((HTML, page), (MARKDOWN, markdown)):
        write_atomic(out_dir / name, draw(content, found, str(out_dir)).encode("utf-8", "replace"))


def write_report_or_warn(out_dir: Path) -> bool:
    """Write the report where a failure must end nothing: it becomes a warning. Returns whether it was written."""
    try:
        write_report(out_dir)
    except Exception as error:
        logger.warning("the report was not made: %s: %s", type(error).__name__, error)
        return False
    return True
