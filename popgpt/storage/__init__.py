"""Folders by path or URI, and the stores behind them."""
