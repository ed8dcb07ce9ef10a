"""The calculator: its options, and what is known of its prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from popgpt.tasks.base import Source, Task

if TYPE_CHECKING:
    from popgpt.lines.shuffle import U64
    from popgpt.lines.text import I64, Text
    from popgpt.tasks.views import Plain, View

Operation = Literal["+", "-", "*", "/"]
Weight = Annotated[int, Field(gt=0, le=2**31)]
OperandDigits = Annotated[int, Field(ge=1, le=9)]
Digits = Annotated[int, Field(ge=0, le=9)]
Number = TypeVar("Number")
# The tags pick one branch to report on, and are named so that explain_error leaves them out of the key.
PerOperation = Annotated[
    Annotated[Number, Tag("constrained-number")] | Annotated[dict[Operation, Number], Tag("constrained-mapping")],
    Discriminator(lambda value: "constrained-mapping" if isinstance(value, dict) else "constrained-number"),
]


class Calculator(Task):
    """Sums, differences, products and quotients of decimals: `12.5+7.3=19.8`."""

    views: ClassVar[tuple[str, ...]] = (*Task.views, "worked")
    name: Literal["calculator"] = "calculator"
    operations: str = Field("+-*/", pattern=r"^[-+*/]+$", description="operations of the calculator, balanced")
    operation_weights: dict[Operation, Weight] = Field(
        {}, description="share of an operation's lines, for example {'*': 3}; those not named weigh 1"
    )
    integer_digits: PerOperation[OperandDigits] = Field(
        2, description="digits before an operand's point, at most; one number, or one for each operation"
    )
    decimals: PerOperation[Digits] = Field(
        1, description="digits after an operand's point, at most; one number, or one for each operation"
    )
    result_decimals: Digits = Field(2, description="digits after a quotient's point, at most")
    quotients: Literal["rounded", "exact"] = Field(
        "rounded", description="rounded: half to even, to result_decimals; exact: only those that end within them"
    )
    signed: bool = Field(False, description="half of the operands are negative")
    terms: Annotated[int, Field(ge=2, le=4)] = Field(2, description="operands of a prompt, with the usual precedence")
    parentheses: bool = Field(False, description="also prompts with a pair of parentheses; takes 3 terms")
    balance: Literal["lengths", "carries"] = Field(
        "lengths", description="lengths: of the operands; carries: also the number of carries or borrows of + and -"
    )

    @property
    def symbols(self) -> str:
        return self.operations

    def disagreement(self) -> str | None:
        if len(set(self.operations)) != len(self.operations):
            return f"operations={self.operations!r} should name each operation once"
        for operation in self.operation_weights:
            if operation not in self.operations:
                return f"operation_weights names {operation!r}, which is not in operations={self.operations!r}"
        for name in ("integer_digits", "decimals"):
            value = getattr(self, name)
            if isinstance(value, dict) and set(value) != set(self.operations):
                wanted = f"a number for each of operations={self.operations!r}, and no other"
                return f"{name}={value!r} should have {wanted}"
        if self.parentheses and self.terms == 2:
            return "parentheses=True makes no difference with terms=2; use terms=3 or 4"
        if self.quotients == "exact" and (self.terms > 2 or "/" not in self.operations):
            return "quotients='exact' takes terms=2 and an operation '/'; use quotients='rounded'"
        if self.balance == "carries" and (self.terms > 2 or self.signed or not set("+-") & set(self.operations)):
            return "balance='carries' takes terms=2, signed=False and an operation '+' or '-'; use balance='lengths'"
        return None

    def source(self, lines: int, seed: int) -> Source:
        from popgpt.tasks.calculator.lines import CalculatorLines

        return CalculatorLines(self, lines, seed)

    def count_prompts(self) -> int:
        from popgpt.tasks.calculator.grammar import Grammar

        return Grammar(self, 0, 0).size

    def view(self, name: str, plain: Plain) -> View:
        if name != "worked":
            return super().view(name, plain)
        from popgpt.tasks.calculator.worked.view import WorkedView

        return WorkedView(
            operations=self.operations,
            integer_digits=self.integer_digits,
            decimals=self.decimals,
            result_decimals=self.result_decimals,
            signed=self.signed,
            terms=self.terms,
            parentheses=self.parentheses,
        )

    def answer(self, prompt: str) -> str | None:
        """The value of any prompt of the four operations, whatever its operands; None where a divisor is 0."""
        from popgpt.tasks.calculator.prompts import answer

        return answer(prompt, self.result_decimals)

    def canonical(self, prompt: str) -> str:
        """A form alike for a+b and b+a; the prompt itself where it is none that the grammar could make."""
        from popgpt.tasks.calculator.prompts import canonical

        return canonical(prompt)

    def hash_prompts(self, text: Text, ends: I64) -> U64:
        """[n] a hash of the numbers in each prompt, in any order: a fast one, for prompts as the calculator writes."""
        from popgpt.tasks.calculator.prompts import hash_operands

        return hash_operands(text, ends)
