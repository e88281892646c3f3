"""Files that were damaged, or made to do harm: what reading them does.

Every format that this package reads is mutated many times, byte by byte and inside of what it says
of itself, and there are files that declare far more than they hold. All are read in a process whose
memory is watched. What must come of it: a `ValueError` or the right contents, a model that a failed
load leaves as it was, and memory that grows by less than 500 MB.

    KERAS_BACKEND=torch python benchmarks/hostile_files.py --count 10000

A `.keras` file is read by Keras, which has failures of its own. They are counted apart: what is
judged there is what this package raises, which is the masks.
"""

import argparse
import collections
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_bombs import write_bombs
from hostile_mutations import mutants
from kit.processes import memory

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "hostile_files.json"
FORMATS = ("npz", "safetensors", "keras", "data.npy", "data.npz")

# Megabytes: what is allowed, and where a reader is stopped.
LARGEST_GROWTH, STOPPED_AT = 500, 3000


def model_to_save() -> Any:
    """A tiny model with masks, whose file has every encoding."""
    import keras

    import keras_hoyer as kh

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(24, "relu", name="wide"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(300, name="wider", use_bias=False),
        ]
    )
    kernel = np.zeros((24, 300), "float32")
    kernel[3, 7] = 1
    model.get_layer("wider").set_weights([kernel])
    kh.prune(model, kh.criteria.TargetSparsity(0.8, scope="layer"), layers=["wide"])
    return model


def write_originals(folder: Path) -> None:
    """The files that are mutated, one of each format."""
    import keras_hoyer as kh

    model = model_to_save()
    for format in FORMATS[:3]:
        kh.export(model, folder / f"original.{format}")
    arrays = {"x": np.arange(60, dtype="float32").reshape(5, 12), "y": np.arange(5)}
    np.save(folder / "original.data.npy", arrays["x"])
    np.savez_compressed(folder / "original.data.npz", **arrays)


# --- readers: each returns what came of a file ----------------------------------------------------


class Wrong(Exception):
    """What must not happen."""


def weights_reader(folder: Path) -> Callable[[Path], str]:
    """Reads sparse weights into a model that already differs from them."""
    import keras_hoyer as kh
    from keras_hoyer.exporters import sparse_weights

    model, right = model_to_save(), [sparse_weights.values_of(w) for w in model_to_save().weights]
    others = [np.ones_like(array) for array in right]

    def read(path: Path) -> str:
        model.set_weights(others)
        try:
            kh.load_sparse_weights(model, path)
        except ValueError:
            _check_equal(model.get_weights(), others, "a failed load changed the model")
            return "ValueError"
        _check_equal(model.get_weights(), right, "the weights that were read are wrong")
        return "read"

    return read


def keras_reader(folder: Path) -> Callable[[Path], str]:
    """Loads a model and uses its masks; a failure of Keras' own is one of its outcomes."""
    import keras

    from keras_hoyer.masks import KeepZeros

    def read(path: Path) -> str:
        try:
            model = keras.models.load_model(path)
            for variable in model.weights:
                if isinstance(variable.constraint, KeepZeros):
                    variable.assign(variable.constraint(variable))
        except Exception as error:
            ours = _ours(error)
            if ours is None:
                return f"{type(error).__name__} of Keras"
            if not isinstance(ours, ValueError):
                raise
            return "ValueError"
        return "read"

    return read


def data_reader(folder: Path) -> Callable[[Path], str]:
    """Reads arrays of numbers."""
    from keras_hoyer.exporters.arrays import read_arrays

    def read(path: Path) -> str:
        try:
            read_arrays(path)
        except ValueError:
            return "ValueError"
        return "read"

    return read


READERS = {
    "npz": weights_reader,
    "safetensors": weights_reader,
    "keras": keras_reader,
    "data.npy": data_reader,
    "data.npz": data_reader,
}


def _check_equal(ours: list[np.ndarray], theirs: list[np.ndarray], otherwise: str) -> None:
    if any(a.tobytes() != b.tobytes() for a, b in zip(ours, theirs, strict=True)):
        raise Wrong(otherwise)


def _ours(error: BaseException | None) -> BaseException | None:
    """What this package raised, where Keras made an error of its own of it; `None` if nothing."""
    while error is not None and not _is_raised_by_us(error):
        error = error.__cause__ or error.__context__
    return error


def _is_raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "keras_hoyer" in Path(frames[-1].filename).parts


# --- the process that reads -----------------------------------------------------------------------


def read_all(format: str, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Reads the original, the bombs and then the mutants; what came of them."""
    read = READERS[format](folder)
    original = folder / f"original.{format}"
    for _ in range(20):  # a reader's first calls take memory for good
        assert read(original) == "read"
    # The kernel forgets what the imports took.
    Path("/proc/self/clear_refs").write_text("5")
    start = _megabytes("VmHWM")
    wrong: list[str] = []
    bombs = {}
    for path in sorted(folder.glob(f"bomb.*.{format}")):
        before, begin = _megabytes("VmHWM"), time.perf_counter()
        outcome = _outcome(read, path, wrong, path.name)
        bombs[path.name] = {
            "bytes": path.stat().st_size,
            "outcome": outcome,
            "megabytes": round(_megabytes("VmHWM") - before, 1),
            "seconds": round(time.perf_counter() - begin, 2),
        }
        # Weights that were read have been compared with the right ones.
        if outcome == "read" and READERS[format] is not weights_reader:
            wrong.append(f"{path.name}: it was read")
    outcomes: collections.Counter = collections.Counter()
    path = folder / f"mutant.{format}"
    for number, content in enumerate(mutants(original.read_bytes(), format, count, seed)):
        path.write_bytes(content)
        found = len(wrong)
        outcomes[_outcome(read, path, wrong, f"mutant {number}")] += 1
        if len(wrong) > found:
            path.rename(folder / f"wrong.{number}.{format}")
        if number % 100 == 0:
            gc.collect()
    return {
        "bombs": bombs,
        "mutants": dict(outcomes.most_common()),
        "growth_megabytes": round(_megabytes("VmHWM") - start, 1),
        "wrong": wrong,
    }


def _outcome(read: Callable[[Path], str], path: Path, wrong: list[str], name: str) -> str:
    try:
        return read(path)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        wrong.append(f"{name}: {type(error).__name__}: {error}"[:300])
        return "wrong"


# --- the process that watches ---------------------------------------------------------------------


def watch(format: str, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Has a format read in a process of its own, which is stopped if it takes too much."""
    out = folder / f"outcome.{format}.json"
    command = [sys.executable, __file__, "--read", str(folder), "--formats", format]
    process = subprocess.Popen([*command, "--count", str(count), "--seed", str(seed)])
    while process.poll() is None:
        if _megabytes("VmRSS", process.pid) > STOPPED_AT:
            process.kill()
        time.sleep(0.02)
    if process.returncode:
        return {"wrong": [f"the process ended with {process.returncode}"]}
    return json.loads(out.read_text())


def _megabytes(kind: str, process: int | str = "self") -> float:
    return memory(kind, process) / 1e6


def main() -> int:
    """Runs all formats and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutants of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="a folder for the files, to look at them")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        (format,) = options.formats
        outcome = read_all(format, options.read, options.count, options.seed)
        (options.read / f"outcome.{format}.json").write_text(json.dumps(outcome))
        return 0

    from kit.machine import describe_machine
    from kit.results import write

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_originals(folder)
        for format in options.formats:
            write_bombs(folder, format)
            results[format] = watch(format, folder, options.count, options.seed)
            print(format, json.dumps(results[format], indent=1), flush=True)
    document = {
        "machine": describe_machine(),
        "seed": options.seed,
        "count": options.count,
        "allowed_growth_megabytes": LARGEST_GROWTH,
        "formats": results,
    }
    write(options.out, document)
    wrong = sum(
        len(result["wrong"]) + (result.get("growth_megabytes", 0) > LARGEST_GROWTH)
        for result in results.values()
    )
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
