"""What a model reads of a calculation: numbers of one width, and every step written out, each easy by itself."""
