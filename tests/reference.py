"""Lines, rows and masks in plain Python, slow and obvious, to hold the fast ones to."""

from __future__ import annotations

import numpy as np

from popgpt.lines.text import Text, from_utf8


def lines_in(data: bytes) -> list[str]:
    """The lines of a text file, blank ones too, without their ends; bytes that are not UTF-8 as lone surrogates."""
    lines, line, before = [], bytearray(), b""
    for byte in (data[at : at + 1] for at in range(3 if data[:3] == b"\xef\xbb\xbf" else 0, len(data))):
        if byte in (b"\r", b"\n"):
            if (before, byte) != (b"\r", b"\n"):
                lines.append(line)
                line = bytearray()
        else:
            line += byte
        before = byte
    return [each.decode("utf-8", "surrogateescape") for each in ([*lines, line] if line else lines)]


def text_of(lines: list[str]) -> Text:
    """Lines without their newlines as the package holds them."""
    data = [(line + "\n").encode() for line in lines]
    offsets = np.concatenate(([0], np.cumsum([len(line) for line in data]))).astype(np.int64)
    return from_utf8(np.frombuffer(b"".join(data), np.uint8), offsets, ascii_only="".join(lines).isascii())


def learned(seen: bool, newline_input: bool, *, mask: str | None, mask_per_line: bool, isolate: bool) -> bool:
    """Whether the target after a character is learned; `seen`: the mask's token is behind it."""
    if isolate and newline_input:
        return False
    if mask is None:
        return True
    return seen and not (mask_per_line and newline_input)


def aligned_row(
    lines: list[str], block_size: int, *, isolate: bool, mask: str | None, mask_per_line: bool
) -> list[tuple[str, str, int, int]]:
    """(token, target or "", segment, position) at each place of a row that holds these lines."""
    row: list[tuple[str, str, int, int]] = []
    seen_in_row = False
    for number, line in enumerate(lines):
        seen_in_line = False
        inputs = line if isolate else line + "\n"
        following = lines[number + 1][0] if number + 1 < len(lines) and lines[number + 1] else ""
        for place, character in enumerate(inputs):
            seen_in_line |= character == mask
            seen_in_row |= character == mask
            seen = seen_in_line if mask_per_line else seen_in_row
            target = (line + "\n" + following)[place + 1 : place + 2]
            if not learned(seen, character == "\n", mask=mask, mask_per_line=mask_per_line, isolate=isolate):
                target = ""
            row.append((character, target, number if isolate else 0, place if isolate else len(row)))
    return row + [("\n", "", -1, 0)] * (block_size - len(row))


def window_row(
    stream: str, begin: int, block_size: int, *, isolate: bool, mask: str | None, mask_per_line: bool
) -> list[tuple[str, str, int, int]]:
    """The same of the window from place `begin` of a stream of lines, which is a ring."""
    ring = stream * (3 + block_size // len(stream))
    begin += len(stream)
    row: list[tuple[str, str, int, int]] = []
    line_begin = ring.rfind("\n", 0, begin) + 1
    seen_in_line = mask is not None and mask in ring[line_begin:begin]
    seen_in_row = False
    segment = position = 0
    for place in range(begin, begin + block_size):
        character = ring[place]
        seen_in_line |= character == mask
        seen_in_row |= character == mask
        seen = seen_in_line if mask_per_line else seen_in_row
        target = ring[place + 1]
        if not learned(seen, character == "\n", mask=mask, mask_per_line=mask_per_line, isolate=isolate):
            target = ""
        row.append((character, target, segment if isolate else 0, position if isolate else place - begin))
        position += 1
        if character == "\n":
            segment, position, seen_in_line = segment + 1, 0, False
    return row
