"""Times of LiteRT files, taken in turn so that all of them see the same machine."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def measure_latencies(paths: Sequence[Path], rounds: int, threads: int = 1) -> np.ndarray:
    """Seconds of one inference on random inputs: a row for each round, a column for each file."""
    random = np.random.default_rng(0)
    interpreters = [Interpreter(model_path=str(path), num_threads=threads) for path in paths]
    for interpreter in interpreters:
        interpreter.allocate_tensors()
        for place in interpreter.get_input_details():
            interpreter.set_tensor(
                place["index"], random.random(place["shape"]).astype(place["dtype"])
            )
        for _ in range(3):
            interpreter.invoke()
    seconds = np.empty((rounds, len(paths)))
    for row in seconds:
        for column, interpreter in enumerate(interpreters):
            start = time.perf_counter()
            interpreter.invoke()
            row[column] = time.perf_counter() - start
    return seconds
