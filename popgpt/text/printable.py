"""Makes text safe to show: no control characters, no lines that are too long."""

from __future__ import annotations

import unicodedata

LONGEST = 1000
ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, what turns the direction of text, half characters, line ends
JOINERS = "\u200c\u200d"  # of this kind, but scripts and emoji are written with them


def printable(text: str, keep: str = "") -> str:
    """Return `text` with a backslash escape for each character that acts on a terminal or cannot be seen.

    Such are ESC, a newline, what turns the direction of text, half a character. Those in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(one) if one not in keep else one for one in text)


def _escaped(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) not in ESCAPED:
        return character
    return character.encode("unicode_escape").decode("ascii")


def cut(text: str, longest: int = LONGEST) -> str:
    """Return `text` in at most `longest` characters, without its middle if it has more."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def line(text: str) -> str:
    """Return `text` as one line that may be shown."""
    return cut(printable(text))
