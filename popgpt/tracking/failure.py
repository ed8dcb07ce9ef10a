"""What a service's error means: whether asking again is in vain, and its cause in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from popgpt.text.redaction import one_line

CODES = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
REFUSALS = (ImportError, FileNotFoundError, KeyError, TypeError, AttributeError)
PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "'psycopg[binary]'",
    "MySQLdb": "mysqlclient",
    "google.cloud": "google-cloud-storage",
    "azure": "azure-storage-blob",
    "wandb": "'popgpt[wandb]'",
}
"""What pip calls the modules that services may lack, where it is not their name."""


def failure(error: Exception) -> dict[str, Any]:
    """Return what went wrong (error), whether asking again is in vain (refused) and a service said so (answered)."""
    return {
        "error": brief(error),
        "refused": isinstance(error, REFUSALS) or getattr(error, "error_code", None) in CODES,
        "answered": not any(isinstance(one, OSError) for one in chain(error)),
    }


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, and so on to the root."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def brief(error: BaseException) -> str:
    """Return what went wrong at the root, in one short line without secrets."""
    *_, root = chain(error)
    missing = root.name if isinstance(root, ModuleNotFoundError) else None
    if missing:
        package = next((PACKAGES[name] for name in PACKAGES if f"{missing}.".startswith(f"{name}.")), missing)
        return one_line(f"it needs the module {missing}: pip install {package}")
    return one_line(getattr(root, "strerror", None) or str(root)) or type(root).__name__
