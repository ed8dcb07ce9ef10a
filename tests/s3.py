"""An S3 server on loopback, in a process of its own."""

from __future__ import annotations

import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.ports import hold_port, number_of

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Server:
    """moto's server: buckets in memory, no key checked until `check_keys`."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets."""
        return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    @property
    def query(self) -> str:
        """What a user gives in the URI instead of AWS_ENDPOINT_URL."""
        return f"?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def make_bucket(self, name: str) -> None:
        from pyarrow.fs import S3FileSystem

        system = S3FileSystem(
            access_key="testing",
            secret_key="testing",
            region="us-east-1",
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            allow_bucket_creation=True,
        )
        system.create_dir(name)

    def check_keys(self, check: bool) -> None:
        """Refuse every request from now on, as no account is known; or none any more."""
        url, many = f"http://127.0.0.1:{self.port}/moto-api/reset-auth", b"0" if check else b"inf"
        urllib.request.urlopen(urllib.request.Request(url, many, {"Content-Type": "text/plain"}), timeout=120).close()

    def pause(self) -> None:
        """Listen, and say nothing more."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


def serve(log: Path) -> Server:
    """Start a server, and wait until it answers."""
    held = hold_port()
    port = number_of(held)
    with held, open(log, "wb") as file:
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(words, stdout=file, stderr=file)
        deadline = time.monotonic() + 300
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return Server(process, port)
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.1)


class Way:
    """A port that leads to a server's, and can be cut and mended: to its users the server is away and back."""

    def __init__(self, server: Server):
        self._to = server.port
        self._open: list[socket.socket] = []
        self._away = False
        self._listen(0)
        self.port: int = self._listener.server_address[1]

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets."""
        return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def cut(self) -> None:
        """Refuse connections, and end those that there are."""
        self._away = True
        self._listener.shutdown()
        self._listener.server_close()
        self._held = hold_port(self.port)  # nobody else is to get it
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._away = False
        self._held.close()
        self._listen(self.port)

    def close(self) -> None:
        """Cut it, for good."""
        if not self._away:
            self.cut()
        self._held.close()

    def _listen(self, port: int) -> None:
        way = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", way._to)) as server:
                    way._open += [self.request, server]
                    if way._away:
                        return
                    back = threading.Thread(target=pump, args=(server, self.request), daemon=True)
                    back.start()
                    pump(self.request, server)
                    back.join()

        class Listener(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, request: object, address: object) -> None:
                """A connection that ended is no trouble here."""

        self._listener = Listener(("127.0.0.1", port), Handler)
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes, until it ends."""
    with suppress(OSError):
        while chunk := source.recv(2**16):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
