"""Exports every net x pattern x sparsity x quantization and looks for a wrong file.

Each cell is either a file, which is then run on inputs that the export has not checked it on, or
an error with its reason. A file counts as wrong if its error is above the tolerance, or if it is
larger than the dense file in the same quantization; a sparse one also if its error is above three
times that of the dense file (and above the noise). The inputs are among those that int8 is
calibrated with: on others, what it cuts off would count as an error of the file.

    python benchmarks/export_matrix.py [--nets mlp ...]

Writes `benchmarks/results/export_matrix.json` as it goes, and skips the cells that it has: stop and
start as you like.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from kit.nets import CNN, MLP
from kit.nets import lenet as paper_net
from kit.results import FOLDER, read_cells, write_cells

from keras_hoyer.exporters import ExportError, export, litert, processes, signatures

layers = keras.layers

SPARSITIES = (0.5, 0.8, 0.9, 0.98)

# What int8 is calibrated with and all else is checked on.
SAMPLES = 256
QUANTIZATIONS = (None, "float16", "dynamic", "int8")


def mlp() -> keras.Model:
    """The 784-300-100-10 network, of which 16 divides neither hidden layer."""
    return paper_net(MLP)


def lenet() -> keras.Model:
    """LeNet-5 with 20-50-500."""
    return paper_net(CNN, activation="relu")


def separable() -> keras.Model:
    """A small net of depthwise and 1x1 convolutions with batch normalisation."""
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False)(x)
    for units in (32, 48):
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Conv2D(units, 1, use_bias=False)(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(10, "softmax")(x))


def conv1d() -> keras.Model:
    """Convolutions over time with an odd number of channels."""
    convolutions = [layers.Conv1D(n, 5, activation="relu") for n in (30, 50)]
    head = [layers.GlobalMaxPooling1D(), layers.Dense(6)]
    return keras.Sequential([keras.Input((64, 9)), *convolutions, *head])


def attention() -> keras.Model:
    """One block of a transformer."""
    x = inputs = keras.Input((12, 32))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    x = x + layers.Dense(32)(layers.Dense(64, "gelu")(x))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def recurrent() -> keras.Model:
    """Words, an LSTM that is unrolled, two classes."""
    core = [layers.Embedding(200, 24), layers.LSTM(32), layers.Dense(2)]
    return keras.Sequential([keras.Input((8,), dtype="int32"), *core])


NETS = {f.__name__: f for f in (mlp, lenet, separable, conv1d, attention, recurrent)}


def unstructured(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Keeps the largest weights."""
    return scores > np.quantile(scores, sparsity) if sparsity else scores >= 0


def _blocks(size: int) -> Callable[[np.ndarray, float], np.ndarray]:
    def keep(scores: np.ndarray, sparsity: float) -> np.ndarray:
        rows = -(-len(scores) // size) * size
        padded = np.zeros((rows, *scores.shape[1:]))
        padded[: len(scores)] = scores
        sums = padded.reshape(-1, size, *scores.shape[1:]).sum(axis=1)
        return np.repeat(unstructured(sums, sparsity), size, axis=0)[: len(scores)]

    return keep


def channels(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Keeps whole output channels."""
    sums = scores.reshape(-1, scores.shape[-1]).sum(axis=0)
    return np.broadcast_to(unstructured(sums, sparsity), scores.shape)


def inputs_of_layers(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Keeps whole input channels."""
    sums = np.moveaxis(scores, -2, 0).reshape(scores.shape[-2], -1).sum(axis=1)
    return np.broadcast_to(unstructured(sums, sparsity)[:, None], scores.shape)


def two_of_four(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Of four inputs keeps the two largest, and of these what the sparsity leaves."""
    mask = unstructured(scores, max(0.0, 2 * sparsity - 1))
    if sparsity == 0 or scores.shape[-2] % 4:
        return unstructured(scores, sparsity)
    groups = np.moveaxis(scores, -2, -1)
    ranks = groups.reshape(*groups.shape[:-1], -1, 4).argsort(-1).argsort(-1).reshape(groups.shape)
    return mask & np.moveaxis(ranks >= 2, -1, -2)


PATTERNS = {
    "unstructured": unstructured,
    "block4": _blocks(4),
    "block16": _blocks(16),
    "two_of_four": two_of_four,
    "channels": channels,
    "inputs": inputs_of_layers,
}


def build(net: str, pattern: str, sparsity: float) -> keras.Model:
    """A net with random weights, cut in the pattern; its biases carry something as well."""
    model = NETS[net]()
    rng = np.random.default_rng(0)
    for w in model.trainable_weights:
        if len(w.shape) > 1:
            kernel = rng.standard_normal(w.shape) / np.sqrt(np.prod(w.shape[:-1]))
            # What is left is scaled up, so that signals arrive at the output.
            kernel *= PATTERNS[pattern](np.abs(kernel), sparsity) / np.sqrt(1 - sparsity)
            w.assign(kernel)
        elif "bias" in w.name or "beta" in w.name:
            w.assign(0.1 * rng.standard_normal(w.shape))
    return model


def cell(model: keras.Model, quantize: str | None, folder: Path) -> dict:
    """Exports one cell and runs the file on inputs that it was not checked on."""
    signature = signatures.signature_of(model)
    seen = signatures.random_arrays(model, signature, SAMPLES)
    checked = np.linspace(0, SAMPLES - 1, signatures.CHECK_SAMPLES).astype(int)
    new = [np.delete(array, checked, axis=0) for array in seen]
    start = time.perf_counter()
    try:
        result = export(model, folder / "m.tflite", quantize=quantize, representative_data=seen)
    except ExportError as error:
        return {"outcome": "error", "reason": str(error)[:500]}
    seconds = time.perf_counter() - start
    calls = [[array[rows] for array in new] for rows in (slice(1), slice(None))]
    expected = signatures.outputs_of(model, signature, calls)
    processes.store_calls(folder / "calls.npz", signature, calls)
    actual, reason = processes.run(result.path, folder / "calls.npz", list(expected[0]))
    error, reason = signatures.compare(expected, actual) if reason is None else (None, reason)
    tolerance = litert.TOLERANCES[quantize]
    dense_error = result.candidates[0].max_error
    sparse = result.candidates[0].outcome != "kept"
    limit = min(tolerance, max(3 * dense_error, 0.1 * tolerance)) if sparse else tolerance
    right = reason is None and error <= limit and result.bytes <= result.dense_bytes
    return {
        "outcome": "right" if right else "WRONG",
        "bytes": result.bytes,
        "dense_bytes": result.dense_bytes,
        "error": error if reason is None else reason,
        "dense_error": dense_error,
        "seconds": round(seconds, 2),
        "candidates": {c.name: c.outcome for c in result.candidates},
    }


def write(file: Path, cells: list[dict]) -> dict[str, int]:
    """Writes the cells, a line each, and returns how many came out how."""
    packages = ("keras", "tensorflow", "ai-edge-litert", "numpy")
    counts = {o: sum(c["outcome"] == o for c in cells) for o in ("right", "error", "WRONG")}
    write_cells(file, packages, {"seed": 0, "counts": counts}, cells)
    return counts


def main() -> None:
    """Runs the cells that were asked for and have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "export_matrix.json")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=list(SPARSITIES))
    arguments = parser.parse_args()
    out = arguments.out
    cells = read_cells(out)
    known = {(c["net"], c["pattern"], c["sparsity"]) for c in cells}
    choices = itertools.product(arguments.nets, arguments.patterns, arguments.sparsities)
    for net, pattern, sparsity in choices:
        if (net, pattern, sparsity) in known:
            continue
        model = build(net, pattern, sparsity)
        done = []
        for quantize in QUANTIZATIONS:
            with tempfile.TemporaryDirectory() as folder:
                outcome = cell(model, quantize, Path(folder))
            name = {"net": net, "pattern": pattern, "sparsity": sparsity, "quantize": quantize}
            done.append({**name, **outcome})
            print(*name.values(), outcome, flush=True)
        cells += done
        write(out, cells)
        keras.backend.clear_session()
    print(f"{write(out, cells)} written to {out}")


if __name__ == "__main__":
    main()
