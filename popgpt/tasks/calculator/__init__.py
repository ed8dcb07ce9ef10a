"""Arithmetic in decimals: which prompts there are, and what they come to."""
