"""Bytes and latency of what `export` makes of a net, by method, with a picture.

    python benchmarks/export_methods.py                # everything; minutes, on TensorFlow
    python benchmarks/export_methods.py --parts mlp    # this part of the JSON anew
    python benchmarks/export_methods.py --only-time    # the latency of the files of the last run
    python benchmarks/export_methods.py --only-draw    # picture and table, from the JSON alone

Weights are random: bytes and latency depend on where zeros are, not on what is learnt. Each kernel
is cut to the same share of zeros. Blocks are cut in dense layers whose inputs they divide, which is
where the runtime skips them; all other kernels get as many zeros anywhere. Every file is one that
`keras_hoyer.export` checked. Latency is that of one sample on one thread, all files of a net by
turns. Writes `export_methods.json` and `.png` into `benchmarks/results`.
"""

import argparse
import contextlib
import gc
import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from applications import randomize, randomize_statistics
from export_matrix import lenet, mlp
from kit.latency import compare_latencies
from kit.machine import describe_machine
from kit.results import FOLDER, rounded, write
from kit.tables import table as markdown
from kit.turns import CLOCK, by_turns

import keras_hoyer as kh

SEED = 0
SAMPLES = 64  # that int8 is calibrated with and files are checked on
DENSE = "dense, float32"


def mobilenet() -> keras.Model:
    """MobileNetV2 as `keras.applications` has it."""
    return keras.applications.MobileNetV2(weights=None, classifier_activation=None)


def wide() -> keras.Model:
    """An MLP whose kernels fit into no cache."""
    hidden = [keras.layers.Dense(4096, "relu") for _ in range(2)]
    return keras.Sequential([keras.Input((2048,)), *hidden, keras.layers.Dense(1000)])


def unstructured(model: keras.Model, sparsity: float) -> keras.Model:
    """Cuts single weights."""
    kh.prune(model, kh.criteria.TargetSparsity(sparsity, scope="layer"))
    return model


def blocks(model: keras.Model, sparsity: float, size: int) -> keras.Model:
    """Cuts blocks where the runtime skips them, single weights elsewhere."""
    names = {
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense) and layer.kernel.shape[0] % size == 0
    }
    target = kh.criteria.TargetSparsity(sparsity, scope="layer")
    kh.prune(model, target, kh.patterns.Block((size, 1)), layers=lambda x: x.name in names)
    if any(hasattr(layer, "kernel") and layer.name not in names for layer in model.layers):
        kh.prune(model, target, layers=lambda x: x.name not in names)
    return model


def channels(model: keras.Model) -> keras.Model:
    """Cuts channels to half the multiply-adds, and takes them out."""
    # A multiple of four, so that blocks may follow.
    kh.prune(model, kh.criteria.TargetFlops(0.5), kh.patterns.Channel(multiple_of=4))
    return kh.shrink(model)


# How a net is cut, and the quantization.
METHODS = {
    DENSE: (None, None),
    "dense, float16": (None, "float16"),
    "dense, dynamic": (None, "dynamic"),
    "dense, int8": (None, "int8"),
    "90% zeros anywhere": (lambda m: unstructured(m, 0.9), None),
    "95% zeros anywhere": (lambda m: unstructured(m, 0.95), None),
    "95% zeros anywhere, float16": (lambda m: unstructured(m, 0.95), "float16"),
    "95% zeros, Block((4, 1))": (lambda m: blocks(m, 0.95, 4), None),
    "95% zeros, Block((16, 1)), int8": (lambda m: blocks(m, 0.95, 16), "int8"),
    "channels at half the FLOPs": (channels, None),
    "channels, int8": (channels, "int8"),
    "channels, then 90% Block((4, 1))": (lambda m: blocks(channels(m), 0.9, 4), None),
}
FAST = "95% zeros, Block((4, 1))"
# How a net is built, its methods, and how many rounds its latency is measured for.
NETS = {
    "mlp": (mlp, METHODS, 150),
    "lenet": (lenet, METHODS, 150),
    "mobilenet": (mobilenet, METHODS, 40),
    "wide": (wide, {name: METHODS[name] for name in (DENSE, FAST)}, 100),
}
TITLES = {"mlp": "MLP 784-300-100-10", "lenet": "LeNet-5 (20-50-500)", "mobilenet": "MobileNetV2"}


def prepared(build: Callable, cut: Callable | None) -> tuple[keras.Model, np.ndarray]:
    """A net with random weights, cut, and random samples for it."""
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = build()
    randomize(model, rng)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            # Normal, because uniform numbers have bits in common, which flatters what compresses.
            layer.kernel.assign(rng.standard_normal(layer.kernel.shape, "float32"))
    if cut is not None:
        model = cut(model)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            # As large as signals need that are to arrive at the output.
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            used = max(1, np.count_nonzero(kernel) / kernel.shape[-1])
            layer.kernel.assign(kernel / np.sqrt(used))
    samples = rng.random((SAMPLES, *model.input_shape[1:]), "float32")
    randomize_statistics(model, samples[:8], rng)
    return model, samples


def export(model: keras.Model, samples: np.ndarray, file: Path, **options: object) -> dict:
    """Exports, and says what came out."""
    result = kh.export(model, file, representative_data=samples, **options)
    storage = [tensor.storage for tensor in result.tensors if len(tensor.shape) > 1]
    return {
        "bytes": result.bytes,
        "weights": model.count_params(),
        "flops": sum(kh.count_flops(model).values()),
        "zeros": round(kh.report(model).sparsity, 4),
        "storage": {name: storage.count(name) for name in sorted(set(storage))},
        "export_error": result.max_error,
    }


def file_of(cache: Path, net: str, number: int) -> Path:
    """Where the file of a net's method lies."""
    return cache / f"{net}-{number}.tflite"


def make_files(net: str, cache: Path) -> dict:
    """Exports a net by each of its methods."""
    build, methods, _ = NETS[net]
    made = {}
    for number, (name, (cut, quantize)) in enumerate(methods.items()):
        model, samples = prepared(build, cut)
        file = file_of(cache, net, number)
        made[name] = export(model, samples, file, quantize=quantize)
        print(net, name, made[name], flush=True)
        keras.backend.clear_session()
        gc.collect()
    return made


def timed(net: str, methods: dict, cache: Path) -> dict:
    """The methods with their latencies."""
    files = {name: file_of(cache, net, number) for number, name in enumerate(methods)}
    latencies = compare_latencies(files, NETS[net][2])
    by_name = latencies.pop("files")
    methods = {name: {**made, "latency": by_name[name]} for name, made in methods.items()}
    return {**latencies, "machine": describe_machine(), "methods": methods}


def bytes_at_98(cache: Path) -> dict:
    """Bytes of the MLP at 98% zeros."""
    cuts = {
        "dense": None,
        "anywhere": lambda m: unstructured(m, 0.98),
        "Block((4, 1))": lambda m: blocks(m, 0.98, 4),
        "Block((16, 1))": lambda m: blocks(m, 0.98, 16),
    }
    made = {}
    for name, cut in cuts.items():
        model, samples = prepared(mlp, cut)
        made[name] = {
            "zeros": kh.report(model).sparsity,
            "tflite float32": kh.export(model, cache / "98.tflite").bytes,
            "tflite int8": kh.export(
                model, cache / "98.tflite", quantize="int8", representative_data=samples
            ).bytes,
            "npz": kh.export(model, cache / "98.npz").bytes,
        }
    return {"methods": made, "machine": describe_machine()}


def overhead(cache: Path, rounds: int = 4) -> dict:
    """Seconds of `export` of MobileNetV2 at 90% zeros, and of the converter alone, by turns."""
    import tensorflow as tf

    model, _ = prepared(mobilenet, lambda m: unstructured(m, 0.9))

    def convert() -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it lists every variable
            tf.lite.TFLiteConverter.from_keras_model(model).convert()

    actions = {
        "converter": convert,
        "export": lambda: kh.export(model, cache / "overhead.tflite"),
    }
    times = by_turns(actions, rounds)
    return {
        "seconds": {
            name: rounded(took[:, CLOCK].tolist(), 2) for name, took in times.seconds.items()
        },
        "ratio": rounded(times.ratio("export", "converter"), 2),
        "quartiles": rounded(times.quartiles("export", "converter"), 2),
        "load_average": times.load_average,
        "machine": {**describe_machine(), "tensorflow": version("tensorflow")},
    }


# Colors by a word of the method's name; the first that fits.
FAMILIES = {"dense": "#7f8c9b", "anywhere": "#d9a441", "Block": "#2a7f62", "channels": "#3b6fb6"}


def draw(document: dict, file: Path) -> None:
    """Bytes in the upper row, latency in the lower one, a column for each net."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, len(TITLES), figsize=(11, 7.6), sharey=True)
    names = list(METHODS)
    colors = [next(c for word, c in FAMILIES.items() if word in name) for name in names]
    for column, (net, title) in enumerate(TITLES.items()):
        methods = document[net]["methods"]
        size, speed = grid[:, column]
        dense = methods[DENSE]
        values = [methods[name]["bytes"] for name in names]
        bars(size, [v / dense["bytes"] for v in values], [in_bytes(v) for v in values], colors)
        ratios = [methods[name]["latency"]["ratio"] for name in names]
        milliseconds = dense["latency"]["milliseconds"]
        bars(speed, ratios, [in_time(milliseconds), *[""] * (len(names) - 1)], colors)
        size.set_title(title, fontsize=11, fontweight="bold")
    for axes, what in zip(grid[:, 0], ("size of the file", "latency"), strict=True):
        axes.set_yticks(range(len(names)), names, fontsize=8.5)
        axes.set_ylabel(f"{what} / dense float32", fontsize=10)
    grid[0, 0].invert_yaxis()  # all panels share it
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def bars(axes: object, ratios: list[float], texts: list[str], colors: list[str]) -> None:
    """Bars on a log axis, with their values and how much less than the first one they are."""
    left, *ticks = 0.02, 0.05, 0.1, 0.2, 0.5, 1
    axes.barh(range(len(ratios)), [r - left for r in ratios], left=left, color=colors, height=0.72)
    axes.set_xscale("log")
    axes.set_xlim(left, 1)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8.5)
    axes.minorticks_off()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    place = 3.3 if all(texts) else 1.06
    for row, (ratio, text) in enumerate(zip(ratios, texts, strict=True)):
        axes.text(1.06, row, text, va="center", fontsize=8.5)
        share = f"1/{1 / ratio:.2g}" if ratio < 0.95 else f"{ratio:.2g}"
        if row > 0:
            axes.text(place, row, share, va="center", fontsize=8.5, weight="bold")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def table(document: dict) -> str:
    """Bytes and latency, of that of the dense float32 file, as a Markdown table."""
    header = ["", *(f"{title}{what}" for title in TITLES.values() for what in (", file", ", time"))]
    rows = []
    for name in METHODS:
        line = [f"`{name}`"]
        for net in TITLES:
            made = document[net]["methods"][name]
            line += [in_bytes(made["bytes"]), f"{made['latency']['ratio']:.2f}"]
        rows.append(line)
    return "\n".join(markdown(header, rows)).rstrip()


def in_bytes(value: int) -> str:
    """Bytes as a reader says them."""
    return f"{value / 1e6:.2g} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def in_time(milliseconds: float) -> str:
    """A time as a reader says it."""
    return f"{milliseconds:.2g} ms" if milliseconds >= 1 else f"{1e3 * milliseconds:.2g} µs"


def main() -> None:
    """Measures the parts that were asked for, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    others = {"bytes_at_98": bytes_at_98, "overhead": overhead}
    parts = [*NETS, *others]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--only-time", action="store_true", help="only the latencies, again")
    parser.add_argument("--only-draw", action="store_true", help="only the picture")
    folder = Path(__file__).parent
    parser.add_argument("--results", type=Path, default=FOLDER / "export_methods.json")
    parser.add_argument("--cache", type=Path, default=folder.parent / "out" / "export_methods")
    arguments = parser.parse_args()
    results, cache = arguments.results, arguments.cache
    cache.mkdir(parents=True, exist_ok=True)
    document = json.loads(results.read_text()) if results.exists() else {}
    for part in [] if arguments.only_draw else arguments.parts:
        if part in NETS:
            made = document[part]["methods"] if arguments.only_time else make_files(part, cache)
            document[part] = timed(part, made, cache)
        elif not arguments.only_time:
            document[part] = others[part](cache)
        write(results, {"seed": SEED, **document})
    if all(net in document for net in TITLES):
        draw(document, results.with_suffix(".png"))
        print(table(document))


if __name__ == "__main__":
    main()
