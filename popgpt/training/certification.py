"""Certifying a run: every prompt of its task is asked, in parts, by processes of this machine."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from popgpt.data.membership import Membership
from popgpt.lines.text import I64, kind_of, split_line
from popgpt.model.gpt import GPT
from popgpt.storage.folder import Folder
from popgpt.tasks.base import Source
from popgpt.tasks.views import View
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder
from popgpt.training.certificate import (
    FOLDER,
    WRONG,
    CertificateFolder,
    add_up,
    all_prompts,
    count_parts,
    identify,
    part_numbers,
    wrong_table,
)
from popgpt.training.evaluation import answer_lines
from popgpt.training.memory import keep_freed_memory
from popgpt.training.world import pick_device

Report = Callable[[int, int, int], None]
"""Called with how many prompts are asked, how many of them are answered wrong, and how many there are."""


def certify(
    where: str, workers: int | None, device: str, data_dir: str | None, report: Report
) -> tuple[dict[str, Any], str]:
    """Return what certificate.json of a run holds, which is made first if it is not there, and where wrong.parquet is.

    What an earlier process recorded is not asked again, unless the checkpoint has changed.

    Args:
        where: a run's folder, a sweep's or a checkpoint file, by path or URI.
        workers: processes that ask; None: one for each core, and one in all on a GPU.
    Raises:
        UserError: there is no such checkpoint, or its prompts can't be told or are too many.
    """
    run_folder, name = checkpoint.find_best(where)
    state = checkpoint.load(run_folder, name)
    parts = CertificateFolder(run_folder / FOLDER, identify(state))
    job = {"checkpoint": run_folder.at(name), "folder": parts.folder.where, "identity": parts.identity}
    with folder.explain_store_errors(parts.folder):
        found = parts.read_totals()
        if not found:
            source = all_prompts(checkpoint.config_of(state).task)
            membership = Membership(checkpoint.config_of(state), checkpoint.open_dataset_of(state, data_dir))
            with folder.claimed(parts.folder, patience=0, advice="wait for it"):
                parts.discard_others()
                _ask_all({**job, "device": device}, source, parts, workers or _default_workers(device), report)
                found, wrong = add_up(parts, source, membership, state)
                parts.finish(found, wrong)
        parts.remove_parts()
    return found, parts.folder.at(WRONG)


def _default_workers(device: str) -> int:
    if pick_device(device).type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ask_all(job: dict[str, Any], source: Source, parts: CertificateFolder, workers: int, report: Report) -> None:
    """Have all parts asked that are not recorded yet."""

    def report_recorded() -> dict[int, int]:
        recorded = parts.wrong_by_part()
        report(sum(len(part_numbers(source, part)) for part in recorded), sum(recorded.values()), len(source))
        return recorded

    wrong = report_recorded()
    left = [part for part in range(count_parts(source)) if part not in wrong]
    asked = sum(len(part_numbers(source, part)) for part in wrong)
    try:
        with closing(_ask_on_workers(job, left, min(workers, len(left)))) as answers:
            for part, wrong[part] in answers:
                asked += len(part_numbers(source, part))
                report(asked, sum(wrong.values()), len(source))
    except KeyboardInterrupt:
        report_recorded()  # a worker may have recorded a part whose answer was not read
        raise


def _ask_on_workers(job: dict[str, Any], parts: Iterable[int], workers: int) -> Generator[tuple[int, int], None, None]:
    """Yield each part and how many of its answers are wrong, once its worker has recorded it.

    Closing kills the workers; the parts that they are at are asked again another time.
    """
    left = iter(parts)
    with ExitStack() as stack, selectors.DefaultSelector() as answering:
        for _ in range(workers):
            worker = stack.enter_context(_Worker(job))
            worker.ask(next(left))
            answering.register(worker.answers, selectors.EVENT_READ, worker)
        while answering.get_map():
            for key, _ in answering.select():
                yield key.data.answer()
                part = next(left, None)
                if part is None:
                    answering.unregister(key.fileobj)
                else:
                    key.data.ask(part)


class _Worker:
    """A process that asks a part at a time. It ends with its owner, or as the context does."""

    def __init__(self, job: dict[str, Any]):
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from popgpt.training.certification import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            process_group=0,  # Ctrl-C is for its owner, who ends it
        )
        self._send(job)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *ending: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe:
                    pipe.close()

    @property
    def answers(self) -> IO[str]:
        assert self._process.stdout
        return self._process.stdout

    def ask(self, part: int) -> None:
        """Have a part asked."""
        self._send(part)

    def answer(self) -> tuple[int, int]:
        """Wait for the part to be recorded. Returns it and how many of its answers are wrong. Raises UserError."""
        line = self.answers.readline()
        if not line:
            raise UserError(
                f"a worker ended by itself (exit code {self._process.wait()}); the same command goes on, "
                "with fewer --workers where memory did not suffice"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["part"], answer["wrong"]

    def _send(self, message: Any) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has ended, which `answer` finds
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()


def serve() -> None:
    """Run in a worker: the first line of standard input is the job, each further line a part, which gets an answer."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    job = json.loads(sys.stdin.readline())
    with suppress(BrokenPipeError):  # its owner has ended
        for answer in _answers(job, map(json.loads, sys.stdin)):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _answers(job: dict[str, Any], parts: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Ask each part as it comes, record it, and yield how many of its answers are wrong, or why there are none."""
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        model, state = checkpoint.open_model(job["checkpoint"], pick_device(job["device"]))
        if identify(state) != job["identity"]:
            raise UserError(f"{job['checkpoint']} has changed meanwhile: the same command starts anew with it")
        source, view = all_prompts(checkpoint.config_of(state).task), checkpoint.open_view_of(state)
        certificate = CertificateFolder(Folder(job["folder"]), job["identity"])
        for part in parts:
            wrong = find_wrong(model, view, source, part_numbers(source, part), state["separator"], state["symbols"])
            certificate.write_part(part, wrong_table(wrong))
            yield {"part": part, "wrong": len(wrong)}
    except UserError as error:
        yield {"error": str(error)}
    except OSError as error:
        yield {"error": f"{job['folder']}: {folder.describe_error(error)}"}


def find_wrong(
    model: GPT, view: View, source: Source, numbers: I64, separator: str, symbols: str
) -> list[dict[str, Any]]:
    """Return the prompts with these numbers that the model answers wrong, as `wrong_table` takes them."""
    lines = source.text(numbers).codes.tobytes().decode()[:-1].split("\n")
    written, right = answer_lines(model, view, separator, lines)
    wrong = []
    for i in np.flatnonzero(~np.array(right)).tolist():
        prompt, answer = split_line(lines[i], separator)
        names = {"kind": kind_of(prompt, symbols), "prompt": prompt, "written": written[i], "answer": answer}
        wrong.append({"number": int(numbers[i]), **names})
    return wrong
