"""What is left of a model."""

from keras_hoyer.reports.account import GroupReport
from keras_hoyer.reports.activations import ActivationReport
from keras_hoyer.reports.counting import count_nonzero, report
from keras_hoyer.reports.histograms import Histogram
from keras_hoyer.reports.results import KernelReport, Report

__all__ = [
    "ActivationReport",
    "GroupReport",
    "Histogram",
    "KernelReport",
    "Report",
    "count_nonzero",
    "report",
]
