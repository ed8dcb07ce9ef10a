"""What a service's error means to the one who asked."""

from __future__ import annotations

from typing import Any

CODES = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
REFUSALS = (ImportError, FileNotFoundError, KeyError, TypeError, AttributeError)


def failure(error: Exception) -> dict[str, Any]:
    """`error`: what went wrong. `refused`: whether asking again is in vain. `answered`: whether a service said so."""
    root = root_of(error)
    return {
        "error": brief(error),
        "refused": isinstance(error, REFUSALS) or getattr(error, "error_code", None) in CODES,
        "answered": not isinstance(root, OSError),
    }


def root_of(error: BaseException) -> BaseException:
    """What an error came from."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def brief(error: BaseException) -> str:
    """What went wrong at the root, in one short line."""
    root = root_of(error)
    text = (getattr(root, "strerror", None) or str(root) or type(root).__name__).splitlines()[0]
    return text if len(text) <= 160 else f"{text[:159]}…"
