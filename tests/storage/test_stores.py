"""The commands with an out_dir in a store."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from popgpt import train
from popgpt.config import Config
from popgpt.storage import stores
from popgpt.storage.folder import Folder
from popgpt.terminal import arguments
from popgpt.text.errors import UserError
from popgpt.training import folder
from tests import s3
from tests.conftest import TINY
from tests.nodes import PATIENCE, wait_for
from tests.samples import sample_and_whole
from tests.training.test_loop import logged, same_states

Make = Callable[..., Config]


@pytest.fixture
def here(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the tiny config in tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    values = {**TINY, "out_dir": "out", "data_dir": str(shared_data)}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def popgpt(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=300)


@contextmanager
def keys_checked(server: s3.Server) -> Iterator[None]:
    server.check_keys(True)
    try:
        yield
    finally:
        server.check_keys(False)


def refusal(out_dir: str) -> str:
    """What is said of an out_dir that cannot be used: one line, that names it."""
    with pytest.raises(UserError) as told:
        train.main(["tiny.yaml", "--local", f"out_dir={out_dir}"])
    assert str(told.value).startswith(f"out_dir={out_dir}: ")
    assert "\n" not in str(told.value)
    return str(told.value).removeprefix(f"out_dir={out_dir}: ")


def test_a_bucket_that_is_not_there_is_told(here: Path, store: str) -> None:
    assert refusal("s3://no-such-bucket/run").startswith("there is no such bucket; make it first (")


def test_a_wrong_key_is_told_and_not_shown(
    here: Path, store: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    with keys_checked(s3_server):
        said = refusal(store)
    assert said.startswith("the store refuses access; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY should be those of")
    assert "AKIAWRONG" not in said
    assert "very-secret" not in said


def test_a_run_that_is_not_in_the_store_is_not_resumed(here: Path, store: str) -> None:
    with pytest.raises(UserError, match="holds no run to resume"):
        train.main(["tiny.yaml", f"out_dir={store}", "init_from=resume"])
    assert Folder(store).names() == set()


def test_a_scheme_that_there_is_not_is_told(here: Path) -> None:
    assert refusal("s4://bucket/run") == "Unrecognized filesystem type in URI: s4://bucket/run"
    assert refusal("s3://bucket/run?colour=red") == "Unexpected query parameter in S3 URI: 'colour'"


def test_a_server_that_is_down_is_told_without_a_traceback(
    here: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    done = popgpt("popgpt.train", "tiny.yaml", "--local", f"out_dir={store}")
    assert done.returncode == 2
    assert re.fullmatch(rf"error: out_dir={store}: the store does not answer \(.*\)\n", done.stderr)


def test_a_server_that_says_nothing_is_given_up(
    store: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "TRIES", 1)
    monkeypatch.setattr(stores, "SILENT_SECONDS", 1.0)
    s3_server.pause()
    try:
        with pytest.raises(stores.StoreError, match="the store does not answer"):
            Folder(store).names()
    finally:
        s3_server.go_on()


def test_a_run_with_its_server_in_the_uri(
    here: Path,
    store: str,
    s3_server: s3.Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from popgpt import evaluate, sample

    monkeypatch.delenv("AWS_ENDPOINT_URL")
    place = store + s3_server.query
    assert train.main(["tiny.yaml", "--local", f"out_dir={place}"]) == 0
    output = capsys.readouterr().out
    assert f"checkpoint: {store}/ckpt.pt{s3_server.query}" in output
    assert f"next: python -m popgpt.evaluate '{place}' --split test" in output
    for where in (place, f"{store}/ckpt.pt{s3_server.query}"):
        assert evaluate.main([where, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["exact_match_n"] == 60
        assert sample.main([where, "1+2="]) == 0
        assert capsys.readouterr().out.startswith("1+2=")
    with pytest.raises(UserError, match="holds a finished run"):
        train.main(["tiny.yaml", "--local", f"out_dir={place}"])


def test_no_key_is_kept_with_a_run(here: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASHOWNNOWHERE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "kept-nowhere")
    train.main(["tiny.yaml", "--local", f"out_dir={store}"])
    place = Folder(store)
    for name in place.names():
        assert b"AKIASHOWNNOWHERE" not in place.read(name)
        assert b"kept-nowhere" not in place.read(name)


def test_a_sweep_is_on_a_disk(here: Path) -> None:
    from popgpt import tune

    (here / "space.yaml").write_text("config: tiny.yaml\nspace: {d_model: {choice: [16, 32]}}\nasha: null\n")
    with pytest.raises(UserError, match="out_dir=s3://bucket/sweep should be a path"):
        tune.main(["space.yaml", "out_dir=s3://bucket/sweep"])


@pytest.mark.parametrize("by", sample_and_whole(["query"], ["environment"]))
def test_two_workers_train_into_a_store(
    here: Path,
    tiny: Make,
    store: str,
    s3_server: s3.Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    by: str,
) -> None:
    from popgpt import evaluate, sample

    query = ""
    if by == "query":
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        query = s3_server.query
    words = ["tiny.yaml", "--workers", "2", f"out_dir={store}{query}"]
    done = popgpt("popgpt.train", *words)
    assert done.returncode == 0, done.stderr
    with pytest.raises(UserError, match=rf"^out_dir={re.escape(store + query)} holds a finished run: "):
        train.main(words)
    alone = tiny(workers=1)
    train.train(arguments.absolute(alone), local=True)
    rows, ours = ([row["train_loss"] for row in logged(config)] for config in (alone, tiny(out_dir=store + query)))
    assert rows == pytest.approx(ours, rel=1e-5)
    capsys.readouterr()
    for where in (f"{store}{query}", f"{store}/ckpt.pt{query}"):
        assert evaluate.main([where, "--split", "test"]) == 0
        assert capsys.readouterr().out.startswith("test: exact match")
        assert sample.main([where, "1+2="]) == 0
        assert capsys.readouterr().out.startswith("1+2=")


@pytest.mark.slow
def test_two_workers_whose_server_goes_away_go_on_when_it_is_back(
    here: Path, tiny: Make, store: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = s3.Way(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", way.environment["AWS_ENDPOINT_URL"])
    shape = {"max_iters": 1000, "eval_interval": 250, "log_interval": 250, "seed": 3}
    config = tiny(**shape, out_dir=store, workers=2)
    (here / "tiny.yaml").write_text(yaml.safe_dump({**config.model_dump()}))
    words = [sys.executable, "-m", "popgpt.train", "tiny.yaml"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: folder.RESULT in Folder(store).names(), "an evaluation", every=0.1)
    way.cut()
    _, errors = process.communicate(timeout=PATIENCE)
    way.mend()
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert re.match(rf"error: out_dir={store}: the store does not answer \(.*\); {store}/state-\d+\.pt is whole", line)
    assert "Traceback" not in errors
    assert process.returncode == 2
    (newest, *_) = folder.state_names(Folder(store))
    done = popgpt("popgpt.train", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert f"going on with the run in {store} after iteration {newest[6:-3]} on 2 workers" in done.stderr
    whole = tiny(**shape, workers=2)
    (here / "whole.yaml").write_text(yaml.safe_dump(whole.model_dump()))
    assert popgpt("popgpt.train", "whole.yaml").returncode == 0
    assert same_states(config, whole)
    assert logged(config) == logged(whole)
    way.close()
