"""A long wait is said."""

from __future__ import annotations

import threading
import time

import pytest

from popgpt.terminal.progress import waiting, waiting_for


def test_a_long_wait_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("starting Ray", after=0.01):
        time.sleep(0.1)
    with waiting_for("opening", waiting("never", after=60), after=60):
        time.sleep(0.01)
    assert capsys.readouterr().err == "starting Ray ...\n"


def test_a_wait_ends_with_what_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), waiting("starting Ray", after=0.05):
        raise KeyboardInterrupt
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]


def test_only_the_entering_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting_for("starting Ray", waiting("never", after=60), after=0.3):
        time.sleep(0.5)
    assert capsys.readouterr().err == ""
