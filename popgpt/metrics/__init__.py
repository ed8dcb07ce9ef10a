"""The metrics that evaluations are compared by, and the rows that a run logs."""
