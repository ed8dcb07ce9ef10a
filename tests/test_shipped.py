"""Every YAML file that ships is read by what reads it for a user."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from popgpt.config import load_config
from popgpt.sweep.draws import sample
from popgpt.sweep.space import load_sweep

ROOT = Path(__file__).parent.parent


def shipped(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).glob("*.yaml"))
    assert files
    return files


@pytest.mark.parametrize("path", shipped("configs"), ids=lambda path: path.stem)
def test_configs(path: Path) -> None:
    assert load_config(path).out_dir == f"out/{path.stem}"


@pytest.mark.parametrize("path", shipped("search_spaces"), ids=lambda path: path.stem)
def test_search_spaces(path: Path) -> None:
    sweep = load_sweep(path)
    assert {"learning_rate", "d_model", "d_head", "dropout", "block_size"} <= sweep.space.keys()
    assert len(sample(sweep)) == sweep.num_samples
    assert sweep.out_dir == f"sweeps/{path.stem}"


def test_cluster_file_is_valid_to_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    workers = config["available_node_types"]["gpu_worker"]
    assert workers["resources"]["GPU"] >= 1
    assert workers["max_workers"] > workers["min_workers"]


def test_no_other_yaml_ships() -> None:
    known = {"configs", "search_spaces"}
    others = [path for path in ROOT.glob("*/*.yaml") if path.parent.name not in known | {".venv", "tests"}]
    assert others == []
