"""What is left of a model."""

from keras_hoyer.reports.activations import ActivationReport
from keras_hoyer.reports.table import KernelReport, Report, count_nonzero, report

__all__ = ["ActivationReport", "KernelReport", "Report", "count_nonzero", "report"]
