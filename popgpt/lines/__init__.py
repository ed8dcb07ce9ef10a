"""What a line is, many at once, and orders that are functions of a seed. Nothing here knows what lines mean."""
