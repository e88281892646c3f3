"""Times `.tflite` files against each other: one sample, by turns."""

import math
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

# At least this long each file runs at a stretch, in seconds, after a call that brings its weights
# back into the caches.
STRETCH = 2e-3


def compare_latencies(files: Mapping[str, Path], rounds: int = 150, threads: int = 1) -> dict:
    """Runs each file in each round, and compares it with the first file within the round.

    Args:
        files: The files by name; each takes one input, which gets random numbers.
        rounds: How often each file has its turn; every second time in reverse.
        threads: How many threads each file runs on.

    Returns:
        By name the median `milliseconds` of a call, the `ratio` to the first file with its
        `quartiles`, and `ratio_cpu` of the time of the processor, which other work
        on the machine hardly changes; beside them the load average before and after.
    """
    load = os.getloadavg()[0]
    names = list(files)
    interpreters = [_loaded(files[name], threads) for name in names]
    calls = []
    for interpreter in interpreters:
        interpreter.invoke()
        start = time.perf_counter()
        interpreter.invoke()
        calls.append(math.ceil(STRETCH / (time.perf_counter() - start)))
    times = np.empty((rounds, len(names), 2))
    for number in range(rounds):
        for column in range(len(names))[:: 1 if number % 2 else -1]:
            invoke = interpreters[column].invoke
            invoke()
            start = time.perf_counter(), time.process_time()
            for _ in range(calls[column]):
                invoke()
            end = time.perf_counter(), time.process_time()
            times[number, column] = np.subtract(end, start) / calls[column]
    ratios = times / times[:, :1]
    by_name = {
        name: {
            "milliseconds": round(1e3 * float(np.median(times[:, column, 0])), 5),
            "ratio": round(float(np.median(ratios[:, column, 0])), 4),
            "quartiles": np.percentile(ratios[:, column, 0], [25, 75]).round(4).tolist(),
            "ratio_cpu": round(float(np.median(ratios[:, column, 1])), 4),
        }
        for column, name in enumerate(names)
    }
    loads = [round(each, 2) for each in (load, os.getloadavg()[0])]
    runtime = {"ai-edge-litert": version("ai-edge-litert")}
    return {
        "rounds": rounds,
        "threads": threads,
        "load_average": loads,
        **runtime,
        "files": by_name,
    }


def accuracy(file: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images that a file classifies as its one-hot labels say, one image a call."""
    interpreter = _loaded(file)
    place = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    right = 0
    for image, label in zip(images, labels, strict=True):
        interpreter.set_tensor(place, image[np.newaxis])
        interpreter.invoke()
        right += int(interpreter.get_tensor(result).argmax() == label.argmax())
    return right / len(images)


def _loaded(file: Path, threads: int = 1) -> "Interpreter":  # noqa: F821
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (place,) = interpreter.get_input_details()
    sample = np.random.default_rng(0).random(place["shape"], "float32")
    interpreter.set_tensor(place["index"], sample)
    return interpreter
