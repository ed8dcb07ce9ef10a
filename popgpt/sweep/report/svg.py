"""Inline SVG as text. Lengths are in pixels; colours are those of the page's style sheet."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

WIDE, NARROW = 940, 350
"""Widths of pictures that take a whole page: each is drawn for a wide one and for a phone's."""
Point = tuple[float, float]


def tag(name: str, *children: str, **attributes: Any) -> str:
    """Return an element. Children are markup, attributes are escaped; `class_` is class, `_` in names is `-`."""
    words = [
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return f"<{name}{''.join(words)}>{''.join(children)}</{name}>"


def _short(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, anchor: str = "start", class_: str | None = None) -> str:
    """Return a line of text."""
    return tag("text", html.escape(words), x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def line(start: Point, end: Point, class_: str) -> str:
    """Return a straight line."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def path(points: Iterable[Point], class_: str, title: str = "") -> str:
    """Return a line through `points`; `title` shows when the pointer rests on it."""
    through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polyline", *([tag("title", html.escape(title))] if title else []), points=through, class_=class_)


def picture(width: float, height: float, label: str, *marks: str, class_: str | None = None) -> str:
    """Return an SVG image. label: what it shows, for those who don't see it."""
    box = f"0 0 {_short(float(width))} {_short(float(height))}"
    return tag("svg", *marks, viewBox=box, role="img", aria_label=label, class_=class_, style=f"max-width:{width:g}px")


def cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def wrapped(name: str, width: float) -> list[str]:
    """Return a parameter's name in lines that fit `width`, broken at underscores and spaces."""
    lines: list[str] = []
    for part in name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines and len(lines[-1] + part) * 6.8 <= width - 12:
            lines[-1] += part
        else:
            lines.append(part)
    return [part.rstrip() for part in lines]
