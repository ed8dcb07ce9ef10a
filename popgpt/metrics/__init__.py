"""What a logged row holds, and what evaluations are compared by."""
