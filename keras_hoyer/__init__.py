"""Sparse training, pruning, shrinking and checked export for Keras 3."""

__version__ = "0.1.0"
