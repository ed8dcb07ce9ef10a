"""Files and folders, on this machine or in a store: a kill or a power cut leaves the old file or the new one, whole."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from popgpt.config import UserError
from popgpt.stores import OBJECT_STORES, is_uri, open_store, refuse_secrets, told_plainly


def absolute(where: str, called: str = "") -> str:
    """`where` as any process on this machine finds it. Raises UserError for a URI with a key in it."""
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
        """The folder that this one, or the file of this name, is in."""
        if self.path:
            return Folder(self.path.parent)
        base, mark, query = self.where.partition("?")
        return Folder(base.rpartition("/")[0] + mark + query)

    def at(self, name: str) -> str:
        """Where a file in it is, as text: a path, or a URI with the query that this one has."""
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
        """Make the folder where it is not there."""
        if self.path:
            self.path.mkdir(parents=True, exist_ok=True)
            return
        system, path = self._store
        with told_plainly(self.where):
            system.create_dir(path)

    def names(self) -> set[str]:
        """What is in the folder; nothing where there is no folder."""
        if self.path:
            return set(os.listdir(self.path)) if self.path.is_dir() else set()
        from pyarrow.fs import FileSelector

        system, path = self._store
        with told_plainly(self.where):
            return {info.base_name for info in system.get_file_info(FileSelector(path, allow_not_found=True))}

    def is_file(self) -> bool:
        """Whether it is no folder but a file."""
        if self.path:
            return self.path.is_file()
        from pyarrow.fs import FileType

        system, path = self._store
        with told_plainly(self.where):
            return system.get_file_info(path).type == FileType.File

    def read(self, name: str) -> bytes:
        """The content of a file."""
        if self.path:
            return (self.path / name).read_bytes()
        system, path = self._store
        with told_plainly(self.at(name)), system.open_input_stream(f"{path}/{name}", compression=None) as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Replace a file. It is where it will last when this returns."""
        if self.path:
            return write_atomic(self.path / name, content)
        system, path = self._store
        whole_at_once = system.type_name in OBJECT_STORES
        new = f"{path}/{name}" if whole_at_once else f"{path}/.{name}.new"
        with told_plainly(self.at(name)):
            with system.open_output_stream(new, compression=None) as stream:
                stream.write(content)
            if not whole_at_once:
                system.move(new, f"{path}/{name}")
        return None

    def copy(self, name: str, to: str) -> None:
        """Replace file `to` by a copy of `name`, without a second copy on the disk where it has hard links."""
        if not self.path:
            system, path = self._store
            with told_plainly(self.at(name)):
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
        with suppress(FileNotFoundError), told_plainly(self.at(name)):
            system.delete_file(f"{path}/{name}")
        return None


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
    """Have a file, or the names in a folder, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """A JSON file's content."""
    return (json.dumps(value, indent=2) + "\n").encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file."""
    write_atomic(path, json_bytes(value))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where there is none."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
