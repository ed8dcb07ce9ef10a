"""Files and folders, on this machine or in a store: a kill or a power cut leaves the old file or the new one, whole."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from popgpt.storage.stores import OBJECT_STORES, is_uri, open_store, refuse_secrets, store_errors
from popgpt.text.errors import UserError, shortened

FULL = 8  # so many pieces of a size a LineFile makes one
ENDLESS = 99  # the power of a piece that no other is merged with
TRIES = 4
LONGEST_NUMBER = 300  # more digits than a float has room for


def absolute(where: str, called: str = "") -> str:
    """Return `where` as any process on this machine finds it. Raises UserError for a URI with a key in it."""
    refuse_secrets(where, called)
    if not is_uri(where):
        return str(Path(where).resolve())
    base, mark, query = where.partition("?")
    return base.rstrip("/") + mark + query


class Folder:
    """A folder by its path, or by a URI that pyarrow opens: s3://bucket/run, gs://bucket/run and others.

    Methods raise OSError; of those FileNotFoundError where a name is not there, StoreError where a store is to blame.
    """

    def __init__(self, where: str | Path):
        self.where = absolute(str(where)) if is_uri(str(where)) else str(where)
        file = re.match(r"file://(?=/)", self.where)
        self.path = Path(self.where[file.end() :] if file else self.where) if file or not is_uri(self.where) else None

    @property
    def name(self) -> str:
        return self.path.name if self.path else unquote(PurePosixPath(self.where.partition("?")[0]).name)

    @property
    def parent(self) -> Folder:
        """The folder that contains this folder or file."""
        if self.path:
            return Folder(self.path.parent)
        base, mark, query = self.where.partition("?")
        return Folder(base.rpartition("/")[0] + mark + query)

    def at(self, name: str) -> str:
        """Return where a file in the folder is, as text: a path, or a URI with this one's query."""
        if self.path:
            return str(self.path / name)
        base, mark, query = self.where.partition("?")
        return f"{base}/{quote(name)}{mark}{query}"

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.at(name))

    @cached_property
    def _store(self) -> tuple[Any, str]:
        """pyarrow's file system, and this folder's path in it."""
        return open_store(self.where)

    def make(self) -> None:
        """Create the folder if it does not exist."""
        if self.path:
            self.path.mkdir(parents=True, exist_ok=True)
            return
        system, path = self._store
        with store_errors(self.where):
            system.create_dir(path)

    def names(self) -> set[str]:
        """Return the names in the folder; none if there is no folder."""
        if self.path:
            return set(os.listdir(self.path)) if self.path.is_dir() else set()
        from pyarrow.fs import FileSelector

        system, path = self._store
        with store_errors(self.where):
            return {info.base_name for info in system.get_file_info(FileSelector(path, allow_not_found=True))}

    def is_file(self) -> bool:
        """Return whether this is a file."""
        if self.path:
            return self.path.is_file()
        from pyarrow.fs import FileType

        system, path = self._store
        with store_errors(self.where):
            return system.get_file_info(path).type == FileType.File

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        if self.path:
            return (self.path / name).read_bytes()
        system, path = self._store
        with store_errors(self.at(name)), system.open_input_stream(f"{path}/{name}", compression=None) as stream:
            return stream.read()

    def read_lines(self, name: str) -> bytes:
        """Return the content of a file that `LineFile` writes, which may lie in pieces in a store."""
        if self.path:
            return self.read(name)
        for _ in range(TRIES):  # a piece that became part of another since the names were read is gone
            found = _pieces(name, self.names())
            with suppress(FileNotFoundError):
                if found:
                    return _joined({start: self.read(piece) for start, piece in found.items()})
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.at(name))

    def write(self, name: str, content: bytes) -> None:
        """Replace a file. Its content is durable when this returns."""
        if self.path:
            return write_atomic(self.path / name, content)
        system, path = self._store
        whole_at_once = system.type_name in OBJECT_STORES
        new = f"{path}/{name}" if whole_at_once else f"{path}/.{name}.new"
        with store_errors(self.at(name)):
            with system.open_output_stream(new, compression=None) as stream:
                stream.write(content)
            if not whole_at_once:
                system.move(new, f"{path}/{name}")
        return None

    def copy(self, name: str, to: str) -> None:
        """Replace file `to` by a copy of `name`: a hard link, where the file system has them."""
        if not self.path:
            system, path = self._store
            with store_errors(self.at(name)):
                return system.copy_file(f"{path}/{name}", f"{path}/{to}")
        link = self.path / f".{to}.{os.getpid()}"
        link.unlink(missing_ok=True)
        try:
            os.link(self.path / name, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(self.path / name, link)
            sync(link)
        os.replace(link, self.path / to)
        link.unlink(missing_ok=True)  # it is still there where both were names of one file
        return sync(self.path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.path:
            return (self.path / name).unlink(missing_ok=True)
        system, path = self._store
        with suppress(FileNotFoundError), store_errors(self.at(name)):
            system.delete_file(f"{path}/{name}")
        return None


class LineFile:
    """A file of lines that grows. On a path a line is added at once.

    In a store, where nothing can be added to a file, each `sync` writes the new lines as a piece, named by the number
    of its first line (metrics-200.jsonl). FULL pieces of a size become one. So after n times at most FULL - 1 pieces
    stay for each power of FULL up to n, and a line was uploaded at most once for each. A piece says what the lines from
    its first on are: one that a kill left beside what it became a part of changes nothing.
    """

    def __init__(self, folder: Folder, name: str):
        self._folder = folder
        self._name = name
        self._lines: list[str] = []  # all of them, in a store
        self._synced = 0
        self._pieces: list[tuple[int, int]] = []  # their first lines and sizes, as powers of FULL

    def replace(self, lines: Sequence[str]) -> None:
        """Replace the file by these lines."""
        self._folder.write(self._name, "".join(lines).encode())
        if not self._folder.path:
            self._lines, self._synced, self._pieces = list(lines), len(lines), [(0, ENDLESS)] if lines else []
            self._remove(start for start in _pieces(self._name, self._folder.names()) if start)

    def append(self, line: str) -> None:
        """Append a line. In a store it is uploaded with the next `sync`."""
        if not self._folder.path:
            self._lines.append(line)
            return
        with open(self._folder.path / self._name, "a", encoding="utf-8") as file:
            file.write(line)

    def __len__(self) -> int:
        """How many lines there are to sync; 0 on a path, where they are written as they come."""
        return len(self._lines)

    def sync(self, count: int, final: bool = False) -> None:
        """Make the first `count` lines durable. final: as one piece, since nothing follows."""
        if self._folder.path:
            return sync(self._folder.path / self._name)
        before = self._pieces
        after = merge_pieces([*before, (self._synced, 0)] if count > self._synced else before)
        if final and after:
            after = [(0, ENDLESS)]
        if after and (count > self._synced or after != before):
            start = after[-1][0]
            self._folder.write(_piece(self._name, start), "".join(self._lines[start:count]).encode())
            self._remove({start for start, _ in before} - {start for start, _ in after})
        self._pieces, self._synced = after, count
        return None

    def _remove(self, starts: Iterable[int]) -> None:
        for start in starts:
            self._folder.remove(_piece(self._name, start))


def merge_pieces(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pieces (first line, power), with the last FULL of a power made one of the next, repeatedly."""
    found = list(pieces)
    while len(found) >= FULL and found[-FULL][1] == found[-1][1] < ENDLESS:
        found[-FULL:] = [(found[-FULL][0], found[-1][1] + 1)]
    return found


def _piece(name: str, start: int) -> str:
    """Return the name of the file of the lines from number `start` on."""
    stem, suffix = os.path.splitext(name)
    return f"{stem}-{start}{suffix}" if start else name


def _pieces(name: str, names: Iterable[str]) -> dict[int, str]:
    """Return those of `names` that are pieces of a file, by the numbers of their first lines, in order."""
    stem, suffix = map(re.escape, os.path.splitext(name))
    matches = (re.fullmatch(rf"{stem}(?:-([1-9]\d{{0,17}}))?{suffix}", each) for each in names)
    return dict(sorted((int(match[1] or 0), match[0]) for match in matches if match))


def _joined(pieces: Mapping[int, bytes]) -> bytes:
    """Return the lines of pieces, given by their first lines' numbers. A piece after a gap is left out."""
    lines: list[bytes] = []
    for start, content in pieces.items():
        if start <= len(lines):
            these = split_lines(content)
            lines[start : start + len(these)] = these
    return b"".join(lines)


def split_lines(content: bytes) -> list[bytes]:
    """Return the lines with their newlines, as LineFile writes them; the last may have none."""
    return io.BytesIO(content).readlines()


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Return a JSON file's content."""
    return (json.dumps(value, indent=2) + "\n").encode()


def nested_json(value: Any, levels: int) -> str:
    """Return JSON text in which each part of the outer `levels` has a line of its own, and what is deeper shares one.

    So Python's fast encoder does most of the work.
    """
    return f"{_nested(value, levels, '')}\n"


def _nested(value: Any, levels: int, indent: str) -> str:
    if not value or levels == 0 or not isinstance(value, dict | list):
        return json.dumps(value)
    inner = f"{indent}  "
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(key))}: {_nested(part, levels - 1, inner)}" for key, part in value.items()]
    else:
        parts = [_nested(part, levels - 1, inner) for part in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    separator = f",\n{inner}"
    return f"{opening}\n{inner}{separator.join(parts)}\n{indent}{closing}"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UserError if there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    found = parse_json(content, str(path))
    if not isinstance(found, dict):
        raise UserError(f"{path}: should be a JSON object, not {shortened(found)}")
    return found


def parse_json(content: bytes, called: str) -> Any:
    """Parse JSON that messages name `called`. NaN and infinities become None. Raises UserError if it is not JSON."""
    try:
        text = content.decode()
        return json.loads(text, parse_constant=lambda name: None, parse_float=_finite, parse_int=_whole)
    except UnicodeDecodeError:
        raise UserError(f"{called}: not UTF-8 text") from None
    except RecursionError:
        raise UserError(f"{called}: not valid JSON for this: nested too deep") from None
    except ValueError as error:  # JSONDecodeError, and what _whole says
        raise UserError(f"{called}: not valid JSON: {error}") from None


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
