"""A gate between a trading model and the market."""

__version__ = "0.1.0"
