"""What a benchmark's figures were measured on, for its JSON."""

import os
import platform
from pathlib import Path


def describe_machine() -> dict:
    """Processor, cores that may be used, versions."""
    import keras
    import numpy as np

    backend = keras.backend.backend()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.__version__,
        "backend": backend,
        backend: __import__(backend).__version__,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
