"""Deciders: who proposes. The model over the Messages API, or the built-in rules."""
