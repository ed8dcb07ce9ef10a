"""Arithmetic in decimals: which prompts there are, and what they come to."""

from popgpt.tasks.calculator.task import Calculator

__all__ = ["Calculator"]
