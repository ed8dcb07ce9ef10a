"""What a task is: its options are the fields of a model, its lines and what is known of them that model's methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from popgpt.lines.shuffle import U64
    from popgpt.lines.text import I64, Text
    from popgpt.tasks.views import Plain, View


class Source(Protocol):
    """Lines by number: what a dataset is built from."""

    @property
    def alphabet(self) -> str:
        """Characters that belong to the dataset's vocabulary whether they occur or not."""

    def __len__(self) -> int:
        """How many lines there are."""

    def text(self, lines: NDArray[Any]) -> Text:
        """The lines with these numbers, as UTF-8 bytes with offsets in bytes."""

    def keys(self, lines: NDArray[Any]) -> U64:
        """[n] hashes of these lines' canonical prompts; lines with one key go to one split."""


class Task(BaseModel):
    """What a model learns: lines of a prompt, the separator and an answer.

    A task is a subclass. Its fields are its options, each with a type, a default, bounds and a description, as a
    config has them under `task`; `name` is one of them. The methods below say what its lines are.

    generates: whether the task makes its lines; the dataset of one that does is built where it is missing.
    separator: the character between a prompt and its answer.
    symbols: characters whose first one in a prompt tells its kind; scores are broken down by them.
    views: the names of the views that a model may have of its lines.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    generates: ClassVar[bool] = True
    separator: ClassVar[str] = "="
    views: ClassVar[tuple[str, ...]] = ("plain", "reversed")
    name: str

    @property
    def symbols(self) -> str:
        return ""

    def disagreement(self) -> str | None:
        """The first combination of options that cannot be, in words."""
        return None

    def source(self, lines: int, seed: int) -> Source:
        """`lines` lines with distinct prompts, in an order that `seed` decides. Raises UserError if impossible."""
        raise NotImplementedError

    def count_prompts(self) -> int:
        """How many different prompts there are. A `source` of as many lines holds each of them once.

        Raises UserError where the task can't say which prompts there are.
        """
        from popgpt.text.errors import UserError

        raise UserError(f"task={self.name} does not say which prompts there are: only a task that makes them can")

    def answer(self, prompt: str) -> str | None:
        """The true answer to a prompt, known without any lines; None where the task knows none."""
        return None

    def canonical(self, prompt: str) -> str:
        """The form shared by all prompts that ask the same. Lines of one form go to one split."""
        return prompt

    def hash_prompts(self, text: Text, ends: I64) -> U64:
        """[n] hashes that prompts of one canonical form share; others may, too. Prompt i ends at text.codes[ends[i]].

        A task with many lines and a canonical form of its own can override this with something faster.
        """
        from popgpt.lines.text import decode, hash_spans, join_lines

        starts = text.offsets[:-1]
        if type(self).canonical is not Task.canonical:
            prompts = (decode(text.codes[start:end]) for start, end in zip(starts, ends, strict=True))
            text = join_lines([self.canonical(prompt) for prompt in prompts])
            starts, ends = text.offsets[:-1], text.offsets[1:] - 1
        return hash_spans(text.codes, starts, ends)

    def view(self, name: str, plain: Plain) -> View:
        """One of its `views`, of lines whose plain view is given. Raises UserError where there is none of that name.

        A task with views of its own overrides this for them. One that can't hold the task's lines raises UserError too.
        """
        from popgpt.tasks.views import Reversed
        from popgpt.text.errors import UserError, shortened

        if name not in ("plain", "reversed"):
            raise UserError(f"view={shortened(name)} is none of task={self.name}: it has {', '.join(self.views)}")
        if name == "plain":
            return plain
        return Reversed(plain.alphabet, plain.separator, plain.positions, plain.longest_answer)

    @model_validator(mode="after")
    def _agree(self) -> Task:
        problem = self.disagreement()
        if problem:
            raise ValueError(f"task: {problem}")
        return self


class NumberedTask(Task):
    """A task whose every prompt has a number: it says how many there are, what each is, and its answer."""

    def sizes(self) -> Sequence[int]:
        """How many prompts there are; of several kinds, each kind's number, in the order of the prompts' numbers.

        A dataset holds as many lines of each kind, as far as there are enough.
        """
        raise NotImplementedError

    def prompt(self, number: int) -> str:
        """The prompt with this number, from 0 to below sum(sizes())."""
        raise NotImplementedError

    def count_prompts(self) -> int:
        """The sum of `sizes()`."""
        return sum(self.sizes())

    def source(self, lines: int, seed: int) -> Source:
        """`lines` of the numbered prompts with their answers, in an order that `seed` decides."""
        from popgpt.tasks.numbered import NumberedLines

        return NumberedLines(self, lines, seed)
