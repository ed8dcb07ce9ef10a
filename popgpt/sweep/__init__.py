"""Search spaces, early stopping, finalists, and what a sweep found."""
