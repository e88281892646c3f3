"""Sparse training, pruning, shrinking and checked export for Keras 3."""

from keras_hoyer import callbacks, criteria, measures, patterns, schedules
from keras_hoyer.attach import regularize, strip
from keras_hoyer.exporters import ExportError, check_sparse_inference, export, load_sparse_weights
from keras_hoyer.graph import register_rule
from keras_hoyer.graph.building import ShrinkError
from keras_hoyer.graph.costs import count_flops
from keras_hoyer.graph.shrink import shrink
from keras_hoyer.pruning import prune
from keras_hoyer.regularizers import (
    GroupHoyer,
    GroupHoyerSquare,
    GroupLasso,
    Hoyer,
    HoyerSquare,
    TransformedL1,
)
from keras_hoyer.reports import report

__version__ = "0.1.0"

__all__ = [
    "ExportError",
    "GroupHoyer",
    "GroupHoyerSquare",
    "GroupLasso",
    "Hoyer",
    "HoyerSquare",
    "ShrinkError",
    "TransformedL1",
    "callbacks",
    "check_sparse_inference",
    "count_flops",
    "criteria",
    "export",
    "load_sparse_weights",
    "measures",
    "patterns",
    "prune",
    "register_rule",
    "regularize",
    "report",
    "schedules",
    "shrink",
    "strip",
]
