from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from popgpt.config import Config
from popgpt.data.dataset import ensure_dataset
from popgpt.metrics.row import Row
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder
from popgpt.training.folder import read_metrics
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.runs import logged, same_states, timeless

ALONE = World(torch.device("cpu"))
Make = Callable[..., Config]


def run(config: Config, **arguments: Any) -> tuple[Row, list[Row]]:
    """Train; the result, and the logged rows without their times."""
    rows: list[Row] = []
    result = fit(config, ensure_dataset(config), ALONE, rows.append, **arguments)
    return result, timeless(rows)


def weights(config: Config, name: str | None = None) -> dict[str, torch.Tensor]:
    """Of a file; of the newest state where none is named."""
    run_folder = Folder(config.out_dir)
    return checkpoint.load(run_folder, name or folder.state_names(run_folder)[0])["model"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_what_the_readme_says(tiny: Make) -> None:
    config = tiny()
    result, rows = run(config)
    out = Path(config.out_dir)
    assert {"ckpt.pt", "config.yaml", "metrics.jsonl", "result.json"} <= {path.name for path in out.iterdir()}
    kept = json.loads((out / "result.json").read_text())
    assert {**kept, "wall_seconds": 0} == {**result, "wall_seconds": 0}
    assert set(result) >= {
        *("exact_match", "exact_match_n", "exact_match_low", "exact_match_high", "token_accuracy", "val_loss"),
        *("iteration", "train_seconds", "wall_seconds", "lines", "tokens", "lines_per_second", "world_size", "threads"),
        *("dataset_fingerprint", "lines_left_out", "checkpoint", "by_operation"),
    }
    logged = read_metrics(Folder(out))
    assert [row["iteration"] for row in logged] == [1, 2, 3, 4] == [row["iteration"] for row in rows]
    assert all({"train_loss", "learning_rate"} <= row.keys() for row in logged)
    assert [row["iteration"] for row in logged if "exact_match" in row] == [2, 4]
    assert result["exact_match_n"] == 60
    assert sum(part["n"] for part in result["by_operation"].values()) == 60


def test_settled_evaluations_are_on_disk_when_they_are_reported(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(max_iters=6, eval_interval=2, log_interval=1, always_save_checkpoint=True)
    run_folder, save = Folder(config.out_dir), checkpoint.save

    def slow(*arguments: Any) -> None:
        time.sleep(0.2)
        save(*arguments)

    def report(row: Row) -> None:
        seen.append(
            (row["iteration"], checkpoint.load_best(config.out_dir)["iteration"] if row["iteration"] > 1 else 0)
        )

    monkeypatch.setattr(checkpoint, "save", slow)
    seen: list[tuple[int, int]] = []
    fit(config, ensure_dataset(config), ALONE, report, wait_for_save=True)
    assert seen == [(1, 0), (2, 2), (3, 2), (4, 4), (5, 4), (6, 6)]
    assert folder.read_result(run_folder)["last_iteration"] == 6


def test_a_state_is_named_that_is_whole_though_what_follows_it_fails(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(max_iters=6, eval_interval=2, always_save_checkpoint=True)
    copy = Folder.copy

    def fails_later(self: Folder, name: str, new: str) -> None:
        if name != "state-2.pt":
            raise OSError(28, "No space left on device")
        copy(self, name, new)

    monkeypatch.setattr(Folder, "copy", fails_later)
    with pytest.raises(UserError, match=rf"No space left on device; {config.out_dir}/state-4\.pt is whole: mend this"):
        run(config)
    monkeypatch.undo()
    assert [row["iteration"] for row in run(config)[1]] == [5, 6]
    assert checkpoint.load_best(config.out_dir)["iteration"] == 6


def test_a_run_that_settles_ends_at_the_evaluation_it_is_stopped_at_and_goes_on_exactly(
    tiny: Make, tmp_path: Path
) -> None:
    shape = {"max_iters": 6, "eval_interval": 2, "log_interval": 1}
    whole, part = (tiny(**shape, out_dir=str(tmp_path / name)) for name in ("whole", "part"))
    run(whole)
    seen: list[Row] = []
    result = fit(part, ensure_dataset(part), ALONE, seen.append, lambda: len(seen) == 2, wait_for_save=True)
    assert (result["last_iteration"], read_metrics(Folder(part.out_dir))) == (2, seen)
    assert folder.state_names(Folder(part.out_dir)) == ["state-2.pt"]
    run(part, wait_for_save=True)
    assert same_states(whole, part)
    assert logged(part) == logged(whole)


def test_training_learns(tiny: Make) -> None:
    _, rows = run(tiny(max_iters=60, eval_interval=60, batch_size=16, learning_rate=0.01))
    assert rows[-1]["train_loss"] < 0.75 * rows[0]["train_loss"]


def test_the_same_run_twice_is_the_same_to_the_bit(tiny: Make, tmp_path: Path) -> None:
    first, second = tiny(dropout=0.1), tiny(dropout=0.1, out_dir=str(tmp_path / "again"))
    assert run(first)[1] == run(second)[1]
    assert same(weights(first), weights(second))


@pytest.mark.parametrize(
    "over", [{}, {"dropout": 0.2}, {"optimizer": "adamw"}, {"align_to_lines": False}, {"view": "worked"}]
)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_that_stops_anywhere_goes_on_exactly(tiny: Make, tmp_path: Path, over: dict[str, Any], stop: int) -> None:
    """At an iteration that is evaluated, logged or neither."""
    shape = {**over, "max_iters": 6, "log_interval": 3, "eval_interval": 3}
    whole = tiny(**shape, out_dir=str(tmp_path / "whole"))
    _, rows = run(whole)
    part = tiny(**shape, out_dir=str(tmp_path / "part"))
    asked = iter([*[False] * (stop - 1), True])
    result, _ = run(part, should_stop=lambda: next(asked))
    assert (result["status"], result["last_iteration"]) == ("interrupted", stop)
    result, _ = run(part)
    assert result["status"] == "completed"
    assert same_states(whole, part)
    assert logged(part) == logged(whole) == rows


def test_the_effective_batch_is_what_counts_not_how_it_is_cut(tiny: Make, tmp_path: Path) -> None:
    cuts = [(12, 1), (4, 3), (2, 6), (1, 12)]
    losses = []
    for rows, steps in cuts:
        config = tiny(
            batch_size=rows, gradient_accumulation_steps=steps, dropout=0.1, out_dir=str(tmp_path / f"{rows}")
        )
        losses.append([row["train_loss"] for row in run(config)[1]])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)


def test_ckpt_is_the_best_unless_told_to_be_the_latest(tiny: Make, tmp_path: Path) -> None:
    worse = {"learning_rate": 0.02, "max_iters": 40, "eval_interval": 5, "seed": 3, "min_lr": 0.02}
    best, latest = tiny(**worse), tiny(**worse, always_save_checkpoint=True, out_dir=str(tmp_path / "latest"))
    result, rows = run(best)
    run(latest)
    scores = {r["iteration"]: (r["exact_match"], r["token_accuracy"]) for r in rows if "exact_match" in r}
    assert scores[result["iteration"]] == max(scores.values())
    assert checkpoint.load(Folder(best.out_dir), "ckpt.pt")["iteration"] == result["iteration"]
    assert checkpoint.load(Folder(latest.out_dir), "ckpt.pt")["iteration"] == 40


def test_best_by_says_what_is_best(tiny: Make, tmp_path: Path) -> None:
    """On lines that are learned by heart the loss on others grows while token accuracy does too."""
    heart = {"train_lines": 20, "dataset": "calculator-few", "max_iters": 120, "eval_interval": 10, "d_model": 64}
    config = tiny(**heart, learning_rate=0.005, best_by="val_loss", log_interval=120)
    result, rows = run(config)
    losses = {row["iteration"]: row["val_loss"] for row in rows if "val_loss" in row}
    assert result["iteration"] == min(losses, key=losses.__getitem__) < 120
    result, rows = run(config.model_copy(update={"best_by": "token_accuracy", "out_dir": str(tmp_path / "accuracy")}))
    accuracies = {row["iteration"]: row["token_accuracy"] for row in rows if "token_accuracy" in row}
    assert result["iteration"] == max(accuracies, key=accuracies.__getitem__) != min(losses, key=losses.__getitem__)


def test_a_loss_that_is_not_finite_is_named(tiny: Make) -> None:
    config = tiny(learning_rate=1e30, min_lr=1e30, optimizer="adamw", warmup_iters=0, grad_clip=0.0)
    with pytest.raises(UserError, match=r"the loss is not finite at iteration \d+ \(learning_rate=1e\+30\)"):
        run(config)


def test_weights_that_are_not_finite_are_never_saved(tiny: Make) -> None:
    config = tiny(learning_rate=1e25, min_lr=1e25, optimizer="adamw", warmup_iters=0, max_iters=1)
    with pytest.raises(UserError, match="the loss is not finite at iteration 1") as told:
        run(config)
    assert "last good state" not in str(told.value)
    assert not list(Path(config.out_dir).glob("*.pt"))


def test_rows_with_nothing_to_learn_change_nothing(tiny: Make) -> None:
    config = tiny(batch_size=1, block_size=4, align_to_lines=False, weight_decay=0.0, max_iters=30, eval_interval=30)
    _, rows = run(config)
    assert min(row["train_loss"] for row in rows) == 0
    assert all(torch.isfinite(tensor).all() for tensor in weights(config).values())


def test_two_runs_do_not_share_a_folder(tiny: Make) -> None:
    config = tiny()
    with folder.claimed(Folder(config.out_dir)), pytest.raises(UserError, match="is in use by another run"):
        run(config)
    run(config)


def test_metrics_that_were_damaged_are_named(tiny: Make) -> None:
    config = tiny()
    run(config)
    metrics = Path(config.out_dir) / "metrics.jsonl"
    metrics.write_text("garbage\n" + metrics.read_text())
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 1 is not JSON"):
        run(tiny(init_from="resume", max_iters=6))


def test_weights_can_be_taken_from_a_checkpoint(tiny: Make, tmp_path: Path) -> None:
    first = tiny()
    run(first)
    start = first.out_dir
    second = tiny(init_from=start, out_dir=str(tmp_path / "second"), learning_rate=1e-9, min_lr=1e-9)
    run(second)
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(weights(first, "ckpt.pt").values(), weights(second).values(), strict=True)
    )
    with pytest.raises(UserError, match="d_model=32 should be 16, as in the checkpoint"):
        run(tiny(init_from=start, d_model=32, out_dir=str(tmp_path / "third")))


def test_resuming_refuses_what_cannot_go_on(tiny: Make) -> None:
    config = tiny(init_from="resume")
    with pytest.raises(UserError, match="holds no run to resume"):
        run(config)
    run(tiny())
    with pytest.raises(UserError, match="n_layer=2 should be 1"):
        run(tiny(init_from="resume", n_layer=2))
    with pytest.raises(UserError, match="rows_per_iteration=5 should be 4"):
        run(tiny(init_from="resume", batch_size=5))
    with pytest.raises(UserError, match="max_iters=3 should be at least 4, where the run is"):
        run(tiny(init_from="resume", max_iters=3))
    with pytest.raises(UserError, match="trained on another dataset"):
        run(tiny(init_from="resume", data_seed=2, dataset="calculator-other"))


def test_an_iteration_that_is_not_finite_can_be_skipped(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose gradient overflows, as a bit that flips in a GPU's memory would make it."""
    summed = World.sum_gradients
    iterations = iter(range(1, 100))

    def overflowing(world: World, parameters: Any, numbers: Any) -> torch.Tensor:
        sums = summed(world, parameters, numbers)
        if next(iterations) == 3:
            next(iter(parameters)).grad[0] = float("inf")
        return sums

    monkeypatch.setattr(World, "sum_gradients", overflowing)
    config = tiny(on_nan="skip", max_iters=6)
    result, rows = run(config)
    assert result["status"] == "completed"
    assert [row["iteration"] for row in rows if row["gradient_norm"] == float("inf")] == [3]
    assert logged(config)[2]["gradient_norm"] is None
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "iteration 3 is skipped: its loss or gradient is not finite"
    ]
    assert all(torch.isfinite(tensor).all() for tensor in weights(config).values())
    iterations = iter(range(1, 100))
    with pytest.raises(UserError, match=r"gradient is not finite at iteration 3 .*last good state is .*/state-2\.pt"):
        run(tiny(out_dir=config.out_dir + "-stopped"))


def test_skipping_ends_where_it_is_the_weights_that_are_not_finite(tiny: Make) -> None:
    config = tiny(learning_rate=1e30, min_lr=1e30, optimizer="adamw", warmup_iters=0, grad_clip=0.0, on_nan="skip")
    with pytest.raises(UserError, match=r"the loss is not finite at iteration \d+"):
        run(config.model_copy(update={"max_iters": 50, "eval_interval": 50}))


def test_a_run_that_named_the_separator_goes_on_by_default(tiny: Make) -> None:
    run(tiny(mask_before_token="=", max_iters=2))
    config = tiny(init_from="resume")
    assert config.mask_before_token == "separator"
    result, rows = run(config)
    assert (result["last_iteration"], rows[0]["iteration"]) == (4, 3)
    with pytest.raises(UserError, match="mask_before_token=None should be 'separator', as in the checkpoint"):
        run(tiny(init_from="resume", mask_before_token=None, max_iters=6))
