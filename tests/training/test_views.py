"""A run whose model reads a view of its lines: rows, the loss, scores, workers, checkpoints and questions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from popgpt import evaluate, explain, sample
from popgpt.config import Config, dump_yaml, make_config, merge
from popgpt.data import building
from popgpt.data.batches import IGNORE_INDEX, Rows, make_rows, open_view
from popgpt.data.dataset import Dataset, ensure_dataset
from popgpt.model.gpt import GPT
from popgpt.text.errors import UserError
from popgpt.training import checkpoint
from popgpt.training.evaluation import answer_lines, batch_loss, evaluate_split, open_split
from popgpt.training.evaluation import evaluate as score
from popgpt.training.feed import Inputs, total_weight
from popgpt.training.loop import fit
from popgpt.training.state_check import check_state
from popgpt.training.world import World
from tests.conftest import TINY, tiny_config
from tests.training.test_world import CPU, in_worlds

Make = Callable[..., Config]
ALL_FOUR = {"operations": "+-*/", "decimals": 0, "integer_digits": 1, "result_decimals": 1, "signed": True}
SIGNED = {"task": ALL_FOUR, "dataset": "signed", "block_size": 64}
VIEWS = {"worked": SIGNED, "reversed": SIGNED}


def lines_of(rows: Rows, config: Config, dataset: Dataset, epoch: int) -> list[str]:
    """What an epoch's rows hold, as people read it; that positions and mask are the view's is checked on the way."""
    view, characters = open_view(config, dataset.meta), rows.vocabulary.characters
    prompts = [line.partition("=")[0] for line in dataset.split("train").lines()]
    asked = {view.ask(prompt).prompt: prompt for prompt in prompts}
    found = []
    batch = rows.at(np.arange(rows.rows_per_epoch) + epoch * rows.rows_per_epoch)
    for tokens, targets, segments, positions in zip(*batch, strict=True):
        for segment in range(segments.max() + 1):
            places = np.flatnonzero(segments == segment)
            read = "".join(characters[token] for token in tokens[places])
            prompt, written = read[: read.index("=") + 1], read[read.index("=") + 1 :]
            question = view.ask(asked[prompt])
            assert positions[places].tolist() == [question.origin + place for place in range(len(read))]
            learned = "".join(characters[token] if token != IGNORE_INDEX else "" for token in targets[places])
            assert learned == written + "\n"
            found.append(f"{asked[prompt]}={view.answer(asked[prompt], written)}")
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_rows_hold_the_lines_of_the_dataset(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    monkeypatch.setattr(building, "SHARD_LINES", 150)
    config = tiny(**VIEWS[view], view=view, data_dir=str(tmp_path))
    dataset = ensure_dataset(config)
    assert dataset.split("train").shards == 3
    rows = make_rows(config, dataset, "train", 5)
    assert rows.lines_left_out == 0
    for epoch in range(2):
        assert Counter(lines_of(rows, config, dataset, epoch)) == Counter(dataset.split("train").lines())
    assert make_rows(config.model_copy(update={"view": "plain"}), dataset, "train", 5) is not rows


def test_the_steps_of_a_quotient_are_other_ones_in_each_epoch(tiny: Make) -> None:
    config = tiny(**SIGNED, view="worked")
    rows = make_rows(config, ensure_dataset(config), "train", 5)
    vocabulary = rows.vocabulary

    def quotients(epoch: int) -> set[str]:
        batch = rows.at(np.arange(rows.rows_per_epoch) + epoch * rows.rows_per_epoch)
        text = vocabulary.decode(batch.tokens[batch.segments >= 0])
        return set(text.split("="))

    first = quotients(0)
    assert first == quotients(0)
    assert len(quotients(1) - first) > 20


def test_every_line_weighs_the_same_however_rows_are_cut(tiny: Make) -> None:
    config = tiny(**SIGNED, view="worked")
    dataset = ensure_dataset(config)
    rows = make_rows(config, dataset, "train", 0)
    model = GPT(config, len(rows.vocabulary))

    def loss(numbers: range) -> tuple[float, int]:
        batch = rows.at(np.array(numbers))
        weights = rows.weights(batch)
        return batch_loss(model, Inputs.of(batch, weights), config)[0].item(), total_weight(batch, weights)

    batch = rows.at(np.arange(6))
    weights = rows.weights(batch)
    assert weights is not None
    assert loss(range(6))[1] == rows.counts(batch)[0]
    for row in range(6):
        for segment in range(batch.segments[row].max() + 1):
            assert weights[row][batch.segments[row] == segment].sum() == pytest.approx(1)
    parts = [loss(range(number, number + 1)) for number in range(6)]
    assert np.sum(parts, 0) == pytest.approx(loss(range(6)), rel=1e-5)
    assert loss(range(6))[0] / loss(range(6))[1] == pytest.approx(np.log(len(rows.vocabulary)), rel=0.1)
    plain = config.model_copy(update={"view": "plain"})
    assert make_rows(plain, dataset, "train", 0).weights(batch) is None


def losses_and_scores(folder: str, world: World) -> tuple[list[float], dict[str, Any]]:
    """Of a run of three rows an iteration, so that two workers have unlike shares; and of a model before it."""
    config = tiny_config(
        **SIGNED, view="worked", batch_size=1, gradient_accumulation_steps=3, dropout=0.1, eval_interval=4,
        out_dir=f"{folder}/of-{world.size}", data_dir=f"{folder}/data",
    )  # fmt: skip
    dataset = ensure_dataset(config)
    rows: list[dict[str, Any]] = []
    fit(config, dataset, world, rows.append)
    model = GPT(config, len(make_rows(config, dataset, "val", 0).vocabulary))
    return [row["train_loss"] for row in rows], score(model, open_split(config, dataset, "val", world), world)


def test_two_workers_come_to_the_same_losses_and_scores(tmp_path: Path) -> None:
    losses, scores = losses_and_scores(str(tmp_path), World(CPU))
    assert scores["exact_match_n"] == 60
    for theirs, their_scores in in_worlds(partial(losses_and_scores, str(tmp_path)), 2, tmp_path):
        assert theirs == pytest.approx(losses, rel=1e-4)
        assert their_scores.pop("val_loss") == pytest.approx(scores["val_loss"], rel=1e-5)
        assert their_scores == {name: value for name, value in scores.items() if name != "val_loss"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Config:
    """A run that gets some sums right and some wrong."""
    grammar = {"task": {"operations": "+-", "decimals": 0, "integer_digits": 1}, "dataset": "calculator-worked"}
    sizes = {"train_lines": 90, "val_lines": 10, "test_lines": 10, "d_model": 32, "batch_size": 8}
    once = {"max_iters": 50, "eval_interval": 50, "log_interval": 50, "learning_rate": 0.01, "view": "worked"}
    out_dir = tmp_path_factory.mktemp("worked") / "out"
    config = tiny_config(**grammar, **sizes, **once, out_dir=str(out_dir), data_dir=str(shared_data))
    fit(config, ensure_dataset(config), World(CPU))
    return config


def test_generated_exact_match_is_that_of_all_steps_predicted_right(learned: Config) -> None:
    model, state = checkpoint.open_model(learned.out_dir, CPU)
    dataset = ensure_dataset(learned)
    view, lines = checkpoint.open_view_of(state), dataset.split("train").lines()
    rows = make_rows(learned, dataset, "train", 0)
    _, right = answer_lines(model, view, "=", lines)
    assert 0.1 < np.mean(right) < 1
    assert score(model, open_split(learned, dataset, "train", World(CPU)), World(CPU))["exact_match"] == np.mean(right)
    reading = view.read(dataset.split("train").shard(0), np.arange(len(lines)), 0, 0)
    for number, hit in enumerate(right):
        start, stop = reading.text.offsets[number : number + 2]
        ids = torch.from_numpy(rows.vocabulary.ids[reading.text.codes[start:stop]])
        positions = torch.arange(len(ids) - 1) + int(reading.origins[number])
        with torch.inference_mode():
            predicted = model(ids[None, :-1], positions[None])[0].argmax(-1)
        end = int(reading.ends[number] - start)
        assert hit == torch.equal(predicted[end:], ids[end + 1 :])


def test_a_model_is_asked_in_its_view(learned: Config, capsys: pytest.CaptureFixture[str]) -> None:
    _, state = checkpoint.open_model(learned.out_dir, CPU)
    view = checkpoint.open_view_of(state)
    good = ["1+2", "9-4=", "0-9"]
    assert sample.main([learned.out_dir, *good, "12+1", "1*2", "x", "1+2=3", "--work"]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(good)
    for line, prompt in zip(out.splitlines(), good, strict=True):
        visible, _, work = line.partition("\t")
        question = view.ask(prompt.removesuffix("="))
        assert work.startswith(question.prompt)
        written = view.answer(prompt.removesuffix("="), work.removeprefix(question.prompt))
        assert visible == f"{prompt.removesuffix('=')}={written}"
    told = err.splitlines()
    bad = ["12+1", "1*2", "x", "1+2=3"]
    assert len(told) == len(bad)
    assert all(line.startswith(f"error: prompt '{prompt}'") for line, prompt in zip(told, bad, strict=True))
    assert told[0].startswith("error: prompt '12+1' is too wide: ")
    assert "should end with its '='" in told[3]


def test_lines_that_a_view_cannot_hold_count_as_wrong(
    learned: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines.txt").write_text("1+2=3\n123+1=124\n1.5+2=3.5\n")
    assert evaluate.main([learned.out_dir, "--file", str(tmp_path / "lines.txt")]) == 0
    out = capsys.readouterr().out
    assert " of 3 lines" in out
    assert "2 of these prompts cannot be asked in the model's view, and count as wrong" in out


def test_a_whole_split_is_scored_in_the_view(learned: Config) -> None:
    model, _ = checkpoint.open_model(learned.out_dir, CPU)
    scores = evaluate_split(model, ensure_dataset(learned), "val")
    assert scores["exact_match_n"] == 10
    assert {"+", "-"} >= set(scores["by_operation"])


def test_a_checkpoint_holds_its_view(learned: Config, tmp_path: Path) -> None:
    state = checkpoint.load_best(learned.out_dir)
    assert state["config"]["view"] == "worked"
    assert "." not in state["vocabulary"]
    for name, value in {"longest_answer": 3, "vocabulary": state["vocabulary"] + "~"}.items():
        with pytest.raises(UserError, match=rf"{name}=.* should be .*, as in view='worked'"):
            check_state({**state, name: value}, "it")
    for over, said in (
        ({"view": "plain"}, "view='plain' should be 'worked', as in the checkpoint"),
        ({"task": {"integer_digits": 2}, "dataset": "wider"}, "positions=20 should be 14, as in the checkpoint"),
    ):
        given = {**learned.model_dump(), "init_from": learned.out_dir, "out_dir": str(tmp_path / "new")}
        other = make_config(merge(given, over))
        with pytest.raises(UserError, match=said):
            fit(other, ensure_dataset(other), World(CPU))


def test_both_forms_of_a_line_are_explained(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_yaml({**TINY, "data_dir": str(shared_data), "view": "worked"}))
    assert explain.main([str(tmp_path / "tiny.yaml"), "--no-probe"]) == 0
    out = capsys.readouterr().out
    assert "view=worked: a line as people read it, and as the model does" in out
    assert re.search(r"^    [\d.]+\+[\d.]+=[\d.]+ +\d{3}\+\d{3}=\d{4}$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"view": "nope"}, "view='nope' is none of task=calculator: it has plain, reversed, worked"),
        ({"view": "worked", "task": "reverse"}, "view='worked' is none of task=reverse: it has plain, reversed"),
        ({"view": "worked", "task": {"terms": 3}}, "view='worked' holds prompts of two operands"),
        ({"view": "worked", "isolate_lines": False}, "use align_to_lines=True and isolate_lines=True"),
        ({"view": "worked", "align_to_lines": False}, "use align_to_lines=True and isolate_lines=True"),
        (
            {"view": "worked", "block_size": 20},
            "block_size=20 should be at least 44, the longest line of view='worked'",
        ),
    ],
)
def test_what_a_view_cannot_serve_is_refused_in_words(over: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        make_config({"block_size": 64, **over})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
