"""Search spaces, early stopping, and what a sweep found."""
