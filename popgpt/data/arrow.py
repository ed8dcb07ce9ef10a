"""The files in a dataset's folder: opened memory-mapped, and told from whatever else may lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from popgpt.data.meta import SCHEMA_KEY, SPLITS, Meta
from popgpt.text.errors import UserError

_NAMES = frozenset(f"{split}.arrow" for split in SPLITS)


def open_arrow(path: Path) -> Any:
    """The reader of a memory-mapped file. Raises UserError where it isn't one."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: not a dataset, {path.name} is missing: prepare it again") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged, prepare the dataset again ({error})") from None


def read_meta(reader: Any, path: Path) -> Meta:
    """What the schema of the file at `path` says it is part of. Raises UserError where it says nothing readable."""
    metadata = reader.schema.metadata or {}
    if SCHEMA_KEY not in metadata:
        raise UserError(f"{path.parent}: not a dataset of popgpt: the schema of {path.name} does not say so")
    try:
        return Meta.from_json(metadata[SCHEMA_KEY])
    except UserError as error:
        raise UserError(f"{path.parent}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: damaged, prepare the dataset again (its schema cannot be read)") from None


def check_replaceable(path: Path) -> None:
    """Raises UserError where there is anything at `path` but the files of a dataset, damaged or not."""
    found = _foreign(path)
    if found:
        raise UserError(f"{path}: {found}, not a dataset of popgpt: give another dataset name or data_dir")


def _foreign(path: Path) -> str:
    """What is at `path` that popgpt did not put there; "" where there is no such thing."""
    if path.is_symlink():
        return "a link"
    if not path.exists():
        return ""
    if not path.is_dir():
        return "a file"
    try:
        others = sorted(entry.name for entry in path.iterdir() if entry.name not in _NAMES or not entry.is_file())
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
    if others:
        return f"a folder that holds {others[0]}{f' and {len(others) - 1} more' if others[1:] else ''}"
    strange = [name for name in sorted(_NAMES) if _is_of_another(path / name)]
    return f"a folder whose {strange[0]} is another program's" if strange else ""


def _is_of_another(path: Path) -> bool:
    """Whether this is an Arrow file, and whole, that does not say that it is popgpt's."""
    try:
        return SCHEMA_KEY not in (open_arrow(path).schema.metadata or {})
    except UserError:
        return False
