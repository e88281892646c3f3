"""Files to ship: each is run, or read back, and compared before it is called good."""

from keras_hoyer.exporters.exporting import export
from keras_hoyer.exporters.results import Candidate, ExportError, ExportResult, StoredTensor
from keras_hoyer.exporters.sparse_inference import SparseInferenceReport, check_sparse_inference
from keras_hoyer.exporters.sparse_weights import load_sparse_weights, scipy_matrices

__all__ = [
    "Candidate",
    "ExportError",
    "ExportResult",
    "SparseInferenceReport",
    "StoredTensor",
    "check_sparse_inference",
    "export",
    "load_sparse_weights",
    "scipy_matrices",
]
