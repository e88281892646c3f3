"""Files to ship: each is run, or read back, and compared before it is called good."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_hoyer.exporters.comparison import Comparison, compare
    from keras_hoyer.exporters.exporting import export
    from keras_hoyer.exporters.results import Candidate, ExportError, ExportResult, StoredTensor
    from keras_hoyer.exporters.sparse_inference import SparseInferenceReport, check_sparse_inference
    from keras_hoyer.exporters.sparse_weights import load_sparse_weights, scipy_matrices

__all__ = [
    "Candidate",
    "Comparison",
    "ExportError",
    "ExportResult",
    "SparseInferenceReport",
    "StoredTensor",
    "check_sparse_inference",
    "compare",
    "export",
    "load_sparse_weights",
    "scipy_matrices",
]

# The rest comes from results.py: the command line needs that and the checks of paths and data
# before Keras is imported, which the others do.
_HOMES = {
    "Comparison": "comparison",
    "compare": "comparison",
    "SparseInferenceReport": "sparse_inference",
    "check_sparse_inference": "sparse_inference",
    "export": "exporting",
    "load_sparse_weights": "sparse_weights",
    "scipy_matrices": "sparse_weights",
}

if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'results')}")
        return getattr(home, name)
