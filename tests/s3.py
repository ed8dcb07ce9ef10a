"""An S3 server on loopback, in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

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
        urllib.request.urlopen(urllib.request.Request(url, many, {"Content-Type": "text/plain"}), timeout=10).close()

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(log, "wb") as file:
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(words, stdout=file, stderr=file)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return Server(process, port)
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.1)
