"""What a service's error means to the one who asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

CODES = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
REFUSALS = (ImportError, FileNotFoundError, KeyError, TypeError, AttributeError)


def failure(error: Exception) -> dict[str, Any]:
    """`error`: what went wrong. `refused`: whether asking again is in vain. `answered`: whether a service said so."""
    return {
        "error": brief(error),
        "refused": isinstance(error, REFUSALS) or getattr(error, "error_code", None) in CODES,
        "answered": not any(isinstance(one, OSError) for one in chain(error)),
    }


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on to the root."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def brief(error: BaseException) -> str:
    """What went wrong at the root, in one short line."""
    *_, root = chain(error)
    text = (getattr(root, "strerror", None) or str(root) or type(root).__name__).splitlines()[0]
    return text if len(text) <= 160 else f"{text[:159]}…"
