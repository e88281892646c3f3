"""Times `.tflite` files against each other: one sample, by turns."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kit.results import rounded
from kit.turns import PROCESSOR, by_turns

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
    actions = {name: _loaded(file, threads).invoke for name, file in files.items()}
    times = by_turns(actions, rounds, stretch=STRETCH)
    first = next(iter(files))
    by_name = {
        name: {
            "milliseconds": rounded(1e3 * times.median(name), 5),
            "ratio": rounded(times.ratio(name, first), 4),
            "quartiles": rounded(times.quartiles(name, first), 4),
            "ratio_cpu": rounded(times.ratio(name, first, PROCESSOR), 4),
        }
        for name in files
    }
    return {
        "rounds": rounds,
        "threads": threads,
        "load_average": list(times.load_average),
        "ai-edge-litert": version("ai-edge-litert"),
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
