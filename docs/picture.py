"""Draw a finished sweep for the README: `python docs/picture.py sweeps/calculator docs/sweep.svg`."""

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Sequence
from pathlib import Path

from popgpt.sweep import journal
from popgpt.sweep.content import Content
from popgpt.sweep.report import findings
from popgpt.sweep.report.curves import curves
from popgpt.sweep.report.style import CSS
from popgpt.sweep.report.svg import WIDE, tag, text

HEADER, MARGIN = 92, 28  # pixels above and beside the curves


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture of a sweep's folder to a file."""
    parser = argparse.ArgumentParser(description="Draw a finished sweep as an SVG file.")
    parser.add_argument("sweep", type=Path, help="the sweep's folder")
    parser.add_argument("svg", type=Path, help="the file to write")
    given = parser.parse_args(arguments)
    given.svg.write_text(picture(Content.from_json(journal.read(given.sweep))), encoding="utf-8")


def picture(content: Content) -> str:
    """An SVG file of what `content`, that of sweep.json, says: the report's first sentences and its learning curves."""
    drawn = re.fullmatch(r'<svg viewBox="0 0 (\d+) (\d+)".*?aria-label="(.*?)".*?>(.*)</svg>', curves(content, WIDE))
    assert drawn, "the sweep has no curves"
    width, height, label, marks = int(drawn[1]) + MARGIN, int(drawn[2]) + HEADER, drawn[3], drawn[4]
    lead, how, *_ = findings.answer(content)
    header = [text(20, 28, lead, class_="lead")]
    header += [text(20, y, words, class_="muted") for y, words in ((50, how), (68, legend(content)))]
    attributes = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}"'
    style = tag("style", html.escape(CSS, quote=False) + ".lead { font-size: 17px; font-weight: 600; }")
    card = tag("rect", width=width, height=height, rx=10, style="fill: var(--card)")
    moved = tag("g", marks, transform=f"translate(8 {HEADER - 8})")
    return f"<svg {attributes}>{style}{card}{''.join(header)}{moved}</svg>\n"


def legend(content: Content) -> str:
    """What the colours and marks of the curves mean."""
    asha = content.definition.get("asha")
    rungs = f" At a rung about one trial in {asha['reduction_factor']} goes on." if asha else ""
    return f"Orange: the winner and its 95% interval. Blue: the other finalists. Grey: other trials.{rungs}"


if __name__ == "__main__":
    main()
