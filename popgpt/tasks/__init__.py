"""What is learned: each task makes lines, and knows what they mean."""
