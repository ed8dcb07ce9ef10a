"""Services for tests: MLflow in this process, a real server, and a way to it that can be closed or slow."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from popgpt.tracking import process
from popgpt.tracking.failure import failure
from popgpt.tracking.identity import Identity
from popgpt.tracking.process import Operation, UnsentError
from tests.ports import hold_port, number_of


class Inside(process.TrackerProcess):
    """The process that sends, in this one: MLflow's import is paid once."""

    connections: dict[str, Any] = {}  # noqa: RUF012

    def ask(self, run: Identity, operation: Operation) -> Any:
        try:
            tracker, uri = self._arguments
            if uri not in self.connections:
                self.connections[uri] = process.connect(tracker, uri)
            request = {"kind": operation.kind, "data": operation.data, "run": vars(run)}
            return process.perform(self.connections[uri], json.loads(json.dumps(request)))
        except Exception as error:
            told = failure(error)
            raise UnsentError(told["error"], told["refused"], told["answered"]) from None


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """An MLflow server on an SQLite store in `folder`, while the context lasts. Yields its port."""
    held = hold_port()
    port = number_of(held)
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--timeout-keep-alive 60"]  # longer than a slow proxy takes
    stores = ["--backend-store-uri", f"sqlite:///{folder}/s.db", "--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen([*command, *stores], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + 300
        while not listens(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(120)
        process.kill()
        process.wait()
        held.close()


def listens(port: int) -> bool:
    with closing(socket.socket()) as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Proxy:
    """A port of its own before the server's. While it is closed, connections are refused and those there are cut.
    `delay`: seconds before each request is passed on. Its port is its own until it is given back.
    """

    def __init__(self, port: int):
        self._to = port
        self._held = hold_port()
        self.port = number_of(self._held)
        self.delay = 0.0
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._changing = threading.Lock()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen()
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def close(self) -> None:
        with self._changing:
            ends = [*self._open, *([self._listener] if self._listener else [])]
            self._listener = None
            self._open.clear()
        for one in ends:
            end(one)

    def give_back(self) -> None:
        """Close it, for good."""
        self.close()
        self._held.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                end(near)
                continue
            if not self._admit(listener, {near, far}):
                return
            threading.Thread(target=self._pass, args=[near, far, True], daemon=True).start()
            threading.Thread(target=self._pass, args=[far, near, False], daemon=True).start()

    def _admit(self, listener: socket.socket, ends: set[socket.socket]) -> bool:
        """Keep the ends of a connection; where its listener was closed meanwhile, it is cut like the others."""
        with self._changing:
            if admitted := self._listener is listener:
                self._open |= ends
        if not admitted:
            for one in ends:
                end(one)
        return admitted

    def _pass(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                if is_request:
                    time.sleep(self.delay)
                sink.sendall(chunk)
        for one in (source, sink):
            end(one)
        with self._changing:
            self._open -= {source, sink}


def end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
