from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import popgpt
from popgpt.metrics.metric import METRICS, Sums, score
from tests.conftest import TINY

TABLE_END = '        Metric("val_loss"'
PERPLEXITY = 'Metric("perplexity", "perplexity", "min", ".4g", lambda sums: math.exp(sums.loss / sums.targets)),\n'


def test_metrics_are_measured_from_sums() -> None:
    sums = Sums(loss=20.0, targets=10, correct=4, exact=1, lines=5)
    assert {name: metric.measure(sums) for name, metric in METRICS.items()} == {
        "exact_match": 0.2,
        "token_accuracy": 0.4,
        "val_loss": 2.0,
    }
    assert METRICS["exact_match"].measure(sums._replace(exact=0, lines=0)) == 0
    assert [metric.is_share for metric in METRICS.values()] == [True, True, False]


@pytest.mark.parametrize(
    ("metric", "worse", "better"),
    [
        ("exact_match", {"exact_match": 0.1, "token_accuracy": 0.9}, {"exact_match": 0.2}),
        ("exact_match", {"exact_match": 0.1, "token_accuracy": 0.8}, {"exact_match": 0.1, "token_accuracy": 0.9}),
        ("val_loss", {"val_loss": 2.0}, {"val_loss": 1.0}),
        ("val_loss", {"val_loss": math.nan}, {"val_loss": 1e9}),
        ("val_loss", {}, {"val_loss": 1e9}),
    ],
)
def test_a_higher_score_is_better(metric: str, worse: dict[str, float], better: dict[str, float]) -> None:
    assert score(worse, metric) < score(better, metric)


def test_a_new_metric_is_one_row(tmp_path: Path, shared_data: Path) -> None:
    """Evaluations measure it, rows and result.json hold it, best_by takes it."""
    shutil.copytree(Path(popgpt.__file__).parent, tmp_path / "popgpt", ignore=shutil.ignore_patterns("__pycache__"))
    table = tmp_path / "popgpt" / "metrics" / "metric.py"
    text = table.read_text()
    assert text.count(TABLE_END) == 1
    table.write_text(text.replace(TABLE_END, f"        {PERPLEXITY}{TABLE_END}"))
    values = {**TINY, "out_dir": "out", "data_dir": str(shared_data), "best_by": "perplexity"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "popgpt.train", "tiny.yaml", "--local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["perplexity"] == pytest.approx(math.exp(result["val_loss"]))
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    perplexities = [row["perplexity"] for row in rows if "exact_match" in row]
    assert result["perplexity"] == min(perplexities)
