"""A run in a store is the run in a folder of this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from popgpt.config import Config
from popgpt.data.dataset import ensure_dataset
from popgpt.metrics.row import Row
from popgpt.storage import stores
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder
from popgpt.training.loop import fit
from tests import s3
from tests.nodes import PATIENCE
from tests.runs import some_state
from tests.training.test_loop import ALONE, logged, run, same_states

Make = Callable[..., Config]


@pytest.fixture
def way(s3_server: s3.Server, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Way]:
    """The way to the store's server, to be cut."""
    way = s3.Way(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", way.environment["AWS_ENDPOINT_URL"])
    monkeypatch.setattr(stores, "TRIES", 2)
    yield way
    way.close()


def test_torn_states_are_recognised_and_the_one_before_used(store: str, caplog: pytest.LogCaptureFixture) -> None:
    place = Folder(store)
    place.make()
    for iteration in (1, 2, 3):
        checkpoint.save(some_state(iteration), place)
        folder.keep_state(place, iteration, iteration == 1, iteration - 1)
    assert place.names() == {"ckpt.pt", "state-2.pt", "state-3.pt"}
    whole = place.read("state-3.pt")
    for torn in (b"", whole[:100], whole[:-1], whole[:500] + b"x" + whole[501:]):
        place.write("state-3.pt", torn)
        state = checkpoint.load_latest(place)
        assert state is not None
        assert state["iteration"] == 2
    assert f"{store}/state-3.pt: torn or altered" in caplog.messages[0]
    place.write("state-2.pt", b"")
    state = checkpoint.load_latest(place)
    assert state is not None
    assert state["iteration"] == 1, "ckpt.pt"


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_that_stops_goes_on_as_it_does_on_a_disk(tiny: Make, store: str, stop: int) -> None:
    shape = {"max_iters": 6, "eval_interval": 3, "dropout": 0.1}
    whole, part = tiny(**shape), tiny(**shape, out_dir=store)
    run(whole)
    asked = iter([*[False] * (stop - 1), True])
    result, _ = run(part, should_stop=lambda: next(asked))
    assert (result["status"], result["last_iteration"]) == ("interrupted", stop)
    assert folder.holds_unfinished(part)
    result, _ = run(part)
    assert result["checkpoint"] == f"{store}/ckpt.pt"
    assert same_states(whole, part)
    assert logged(whole) == logged(part)
    local = {name for name in Folder(whole.out_dir).names() if not name.startswith(".")}
    assert Folder(store).names() == local
    kept = json.loads(Folder(store).read("result.json"))
    assert {**kept, "wall_seconds": 0} == {**result, "wall_seconds": 0}


def test_a_finished_run_and_another_run_are_not_started_over(tiny: Make, store: str) -> None:
    run(tiny(out_dir=store))
    with pytest.raises(UserError, match=f"^out_dir={store} holds a finished run: continue it with"):
        folder.holds_unfinished(tiny(out_dir=store))
    with pytest.raises(UserError, match="holds a finished run of seed=1337, not 1: "):
        folder.holds_unfinished(tiny(out_dir=store, seed=1))
    further = tiny(out_dir=store, init_from="resume", max_iters=6)
    assert folder.holds_unfinished(further)
    assert run(further)[0]["last_iteration"] == 6


def test_weights_can_be_taken_from_a_store(tiny: Make, store: str, tmp_path: Path) -> None:
    run(tiny(out_dir=store))
    for start in (store, f"{store}/ckpt.pt"):
        config = tiny(init_from=start, learning_rate=1e-9, min_lr=1e-9, out_dir=str(tmp_path / start[-3:]))
        run(config)
        first, second = (checkpoint.load_best(where)["model"] for where in (store, config.out_dir))
        assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_a_server_that_goes_away_ends_the_run_in_one_line_and_it_goes_on_when_it_is_back(
    tiny: Make, store: str, way: s3.Way
) -> None:
    shape = {"max_iters": 8, "eval_interval": 2}
    whole, config = tiny(**shape), tiny(**shape, out_dir=store)
    run(whole)

    def lose(row: Row) -> None:
        if row["iteration"] == 3:
            wait_for(Folder(store), "result.json")  # written once the state is whole
            way.cut()

    with pytest.raises(UserError) as told:
        fit(config, ensure_dataset(config), ALONE, lose)
    assert str(told.value).startswith(f"out_dir={store}: the store does not answer (")
    assert str(told.value).endswith(f"; {store}/state-2.pt is whole: mend this and give the same command again")
    assert "\n" not in str(told.value)
    way.mend()
    assert folder.holds_unfinished(config)
    assert [row["iteration"] for row in run(config)[1]] == [3, 4, 5, 6, 7, 8]
    assert same_states(config, whole)
    assert logged(config) == logged(whole)


def wait_for(place: Folder, name: str) -> None:
    """Until a file is there."""
    deadline = time.monotonic() + PATIENCE
    while name not in place.names():
        assert time.monotonic() < deadline, place.names()
        time.sleep(0.05)


def test_a_server_that_is_away_from_the_start_is_told(tiny: Make, store: str, way: s3.Way) -> None:
    way.cut()
    for attempt in (lambda: run(tiny(out_dir=store)), lambda: checkpoint.load_best(store)):
        with pytest.raises(UserError, match=f"^(out_dir=)?{store}: the store does not answer") as told:
            attempt()
        assert "\n" not in str(told.value)
    way.mend()
