"""What a person sees who trains where something breaks: one line that says what to do, and the same command goes on."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from popgpt.config import Config
from popgpt.storage.folder import Folder
from popgpt.training import folder
from tests.conftest import tiny_config
from tests.moments import finished, rows
from tests.nodes import PATIENCE, cluster, kill, wait_for
from tests.runs import left

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
Make = Callable[..., Config]
LONG = {"max_iters": 400, "eval_interval": 20, "log_interval": 4, "dropout": 0.1}
MEMORY_BYTES = 5_000_000_000


class Command:
    """`python -m popgpt.train` on a run's parameters. Use as a context: it then ends with it."""

    def __init__(self, config: Config, *words: str, own_ray: bool = False, prepare: Callable[[], None] | None = None):
        given = Path(f"{config.out_dir}.yaml")
        given.write_text(yaml.safe_dump(config.model_dump()))
        outer = {name: value for name, value in os.environ.items() if not (own_ray and name == "RAY_ADDRESS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "popgpt.train", str(given), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=outer,
            preexec_fn=prepare,
            start_new_session=True,
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *ending: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_for(self, condition: Callable[[], Any], what: str, every: float = 0.002) -> Any:
        """`nodes.wait_for`, while it runs: what it has not come to when it ends never comes."""

        def met() -> Any:
            ended = self.process.poll() is not None
            found = condition()
            assert found or not ended, f"it ended before {what}: {self.end()}"
            return found

        return wait_for(met, what, every)

    def interrupt(self, number: int) -> None:
        """Signal it; at Ctrl-C its children too, as a terminal does."""
        send = os.killpg if number == signal.SIGINT else os.kill
        send(self.process.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Its exit code, and what it printed, once it has ended."""
        output, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output, errors


def command(config: Config, *words: str, **options: Any) -> tuple[int, str, str]:
    """Run it to its end."""
    with Command(config, *words, **options) as running:
        return running.end()


def completes(config: Config, *words: str, **options: Any) -> None:
    """Give the command, which is to complete the run."""
    code, _, errors = command(config, *words, **options)
    assert code == 0, errors
    assert finished(config)


def error_of(ended: tuple[int, str, str]) -> str:
    """The one line that a command complained of, at exit code 2."""
    code, _, errors = ended
    assert code == 2, errors
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert errors.rstrip().endswith(line)
    return line


@contextmanager
def held(pids: list[int]) -> Iterator[None]:
    """While processes stand still."""
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Config:
    """A run of one process that nothing disturbs."""
    config = tiny_config(**LONG, out_dir=str(tmp_path_factory.mktemp("runs") / "whole"), data_dir=str(shared_data))
    completes(config, "--local")
    return config


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte, with a file whose removal makes room again."""
    ballast = disk / "ballast"
    for size in (2**16, 512):
        with suppress(OSError), open(ballast, "ab", buffering=0) as file:
            while True:
                file.write(b"\0" * size)
    return ballast


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes, where this test may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True).returncode:
        pytest.skip("takes root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_fills_up_ends_a_run_that_goes_on_once_there_is_room(
    tiny: Make, small_disk: Path, whole: Config
) -> None:
    config = tiny(**LONG, out_dir=str(small_disk / "out"))
    with Command(config, "--local") as running:
        running.wait_for(lambda: folder.state_names(Folder(config.out_dir)), "a state")
        ballast = fill(small_disk)
        line = error_of(running.end())
    kept = re.fullmatch(rf"error: out_dir={config.out_dir}: No space left on device; (.*) is whole: mend this .*", line)
    assert kept, line
    ballast.unlink()
    goes_on_from(Path(kept[1]), config)
    assert left(config) == left(whole)


def test_a_file_that_may_not_grow_ends_a_run_that_goes_on_once_it_may(tiny: Make, whole: Config) -> None:
    config = tiny(**LONG)
    with Command(config, "--local") as running:
        running.wait_for(lambda: folder.state_names(Folder(config.out_dir)), "a state")
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
        line = error_of(running.end())
    kept = re.fullmatch(rf"error: out_dir={config.out_dir}: File too large; (.*) is whole: mend this .*", line)
    assert kept, line
    goes_on_from(Path(kept[1]), config)
    assert left(config) == left(whole)


def goes_on_from(state: Path, config: Config) -> None:
    """The same command completes the run, starting after the state that it was told of."""
    iteration = int(state.name.removeprefix("state-").removesuffix(".pt"))
    code, _, errors = command(config, "--local")
    assert code == 0, errors
    assert f"going on with the run in {config.out_dir} after iteration {iteration}\n" in errors


@pytest.mark.parametrize(
    "over",
    [{"batch_size": 2**14, "block_size": 2**16}, {"batch_size": 20_000, "d_model": 512, "d_head": 64}],
    ids=["rows", "activations"],
)
def test_too_little_memory_is_told_with_what_to_lower(tiny: Make, over: dict[str, int]) -> None:
    """Of numpy, which holds the rows, and of torch."""
    config = tiny(**over)
    limit = (MEMORY_BYTES, MEMORY_BYTES)
    line = error_of(command(config, "--local", prepare=lambda: resource.setrlimit(resource.RLIMIT_AS, limit)))
    assert line.startswith(f"error: out of memory with batch_size={config.batch_size}, block_size={config.block_size}")
    assert "lower batch_size, and raise gradient_accumulation_steps" in line


def test_a_loss_that_is_not_finite_names_the_state_before_it(tiny: Make, whole: Config) -> None:
    """A run goes on with a learning rate that its weights do not survive."""
    config = tiny(**{**LONG, "max_iters": 500}, init_from="resume", learning_rate=1e30, min_lr=1e30, grad_clip=0.0)
    shutil.copytree(whole.out_dir, config.out_dir)
    line = error_of(command(config, "--local"))
    assert re.search(r"is not finite at iteration \d+ \(learning_rate=1e\+30\); lower learning_rate", line), line
    assert line.endswith(f"the last good state is {config.out_dir}/state-400.pt")


def test_more_workers_than_a_cluster_has_are_refused_at_once(tiny: Make) -> None:
    with cluster(2):
        line = error_of(command(tiny(), "--workers", "4"))
    assert line == "error: workers=4 need 4 CPU cores; the cluster has 2, and it cannot grow"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379"])
def test_an_address_where_no_ray_answers_is_named(tiny: Make, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert error_of(command(tiny())).startswith(f"error: RAY_ADDRESS={address}: no Ray answers there (")


def test_a_run_is_not_written_over(tiny: Make, whole: Config) -> None:
    line = error_of(command(whole, "--local"))
    assert f"out_dir={whole.out_dir} holds a finished run: continue it with init_from=resume" in line
    line = error_of(command(whole, "--local", "learning_rate=0.001", "min_lr=0.0003"))
    assert "holds a finished run of learning_rate=0.003, not 0.001" in line


def test_an_unfinished_run_goes_on_but_not_with_other_parameters(tiny: Make, whole: Config) -> None:
    config = tiny(**LONG)
    with Command(config, "--local") as running:
        running.wait_for(lambda: folder.state_names(Folder(config.out_dir)), "a state")
        running.process.kill()
    line = error_of(command(config, "--local", "seed=2"))
    assert f"out_dir={config.out_dir} holds an unfinished run of seed=1337, not 2" in line
    completes(config, "--local")
    assert left(config) == left(whole)


def test_two_processes_do_not_share_a_folder(tiny: Make) -> None:
    config = tiny(**{**LONG, "max_iters": 1_000_000, "eval_interval": 1_000_000})
    with Command(config, "--local") as running:
        running.wait_for(lambda: rows(config) > 3, "the first rows")
        with held([running.process.pid]):
            line = error_of(command(config, "--local"))
    assert line == f"error: out_dir={config.out_dir} is in use by another run; give another out_dir"
