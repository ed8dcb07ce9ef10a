"""Which Ray is joined."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private import services

from popgpt.cluster.session import ENVIRONMENT, cluster_address, connected
from popgpt.text.errors import UserError
from tests.nodes import PATIENCE, exposed, listeners


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken but does not answer."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def left_word(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Have Ray find this address, as `ray start` leaves it in a file."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda given: address)


def test_without_word_of_a_cluster_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    left_word(monkeypatch, None)
    assert cluster_address() is None


def test_a_cluster_that_answers_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as answering:
        address = f"127.0.0.1:{answering.getsockname()[1]}"
        left_word(monkeypatch, address)
        assert cluster_address() == address


def test_word_of_a_cluster_that_has_died_is_passed_over(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    left_word(monkeypatch, f"127.0.0.1:{closed_port}")
    assert cluster_address() is None


def test_a_named_cluster_that_has_died_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(UserError, match=rf"^RAY_ADDRESS=127.0.0.1:{closed_port}: no Ray answers there \("):
        cluster_address()


@pytest.mark.parametrize(
    ("address", "said"),
    [("10.0.0.1:6379", "the Ray at 10.0.0.1:6379 cannot be joined"), (None, "no Ray could be started here")],
)
def test_a_ray_that_fails_is_told_of_in_one_line(
    monkeypatch: pytest.MonkeyPatch, address: str | None, said: str
) -> None:
    def fail(**options: object) -> None:
        raise RuntimeError("The current node timed out during startup.\nSee the logs.")

    monkeypatch.setattr("popgpt.cluster.session.cluster_address", lambda: address)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match=f"^{said}: The current node timed out during startup.$"), connected():
        pass


@pytest.mark.parametrize(
    ("settled", "token"),
    [
        ({}, r"[0-9a-f]{64}"),
        ({"RAY_AUTH_MODE": "token"}, r"[0-9a-f]{64}"),
        ({"RAY_AUTH_TOKEN": "the user's"}, "the user's"),
        ({"RAY_AUTH_TOKEN_PATH": "a/file"}, ""),
        ({"RAY_AUTH_MODE": "disabled"}, ""),
    ],
    ids=str,
)
def test_a_ray_started_here_asks_for_a_token_of_its_own_unless_the_user_has_settled_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settled: dict[str, str], token: str
) -> None:
    """The token is in the environment that Ray's processes inherit, in no file, and gone when Ray is."""
    monkeypatch.setattr("popgpt.cluster.session.cluster_address", lambda: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settled.items():
        monkeypatch.setenv(name, value)
    found: list[str] = []

    def fail(**options: object) -> None:
        assert services.get_node_ip_address() == "127.0.0.1"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
        found.append(os.environ.get("RAY_AUTH_TOKEN", ""))
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", fail)
    before = dict(os.environ) | ENVIRONMENT
    for _ in range(2):
        with pytest.raises(UserError, match="enough"), connected():
            pass
    assert all(re.fullmatch(token, each) for each in found)
    assert (found[0] != found[1]) == token.startswith("[")
    assert dict(os.environ) | ENVIRONMENT == before
    assert not list(tmp_path.iterdir())


def test_who_listens_to_other_machines_is_found() -> None:
    """By what tells so of a group's processes, in other tests."""
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("0.0.0.0", 0)) as open_to_all:
        assert {address for _, address in exposed(listeners())} == {f"0.0.0.0:{open_to_all.getsockname()[1]}"}


@pytest.mark.parametrize(
    ("first", "seconds", "code"), [("threading.Event().wait", 1, -signal.SIGALRM), ("threading.Event", 100, 0)]
)
def test_a_process_whose_exit_locks_up_is_ended(first: str, seconds: int, code: int) -> None:
    lines = [
        "import atexit, threading",
        "from popgpt.cluster import process",
        f"atexit.register({first})",
        f"process.EXIT_SECONDS = {seconds}",
        "process.limit_exit_time()",
    ]
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)], timeout=PATIENCE).returncode == code
