"""Kills a gradual fit at random moments and lets it go on: does it end as one that was left alone?

`python benchmarks/kills.py --kills 10` trains a small network, cut gradually, with
`keras.callbacks.BackupAndRestore`, in a process that is killed (SIGKILL) at ten random moments and
started again each time, and compares the final weights and masks with those of a run that was not
disturbed. It does the same for `BudgetPruning` and `ADMM`. The results go to `--output` as JSON,
beside those of the methods that are not asked for.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

METHODS = ("gradual", "budget", "admm")
EPOCHS = 20
SECONDS = 0.1, 0.9  # from the first step to the kill; an epoch takes about half a second


def train(method: str, folder: Path) -> None:
    """Trains in this process and leaves weights and masks in `folder`."""
    import keras

    import keras_hoyer as kh
    from keras_hoyer.masks import known_mask
    from keras_hoyer.weights import find_kernels

    class Slow(keras.callbacks.Callback):
        """Makes an epoch long enough to be killed anywhere within it."""

        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            print("training", flush=True)

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            time.sleep(0.05)

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 32)).astype("float32")
    y = (x @ rng.normal(size=(32, 4))).argmax(1)
    model = keras.Sequential(
        [keras.Input((32,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(4)]
    )
    if method != "admm":  # whose penalty is no part of the loss
        kh.regularize(model, kh.HoyerSquare(1e-4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    if method == "gradual":
        schedule = kh.schedules.Polynomial(2, 10, frequency=0.5)
        cut = kh.callbacks.Pruning(kh.criteria.TargetSparsity(0.8), schedule)
    elif method == "admm":
        cut = kh.callbacks.ADMM("l1", 1e-2, 12, every=3)
    else:
        cut = kh.callbacks.BudgetPruning(0.03, monitor="val_accuracy", begin=3, step=0.4)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)
    # `ADMM` asks to be the first, so that a kill between the two files loses nothing.
    kept = [cut, backup] if method == "admm" else [backup, cut]
    model.fit(
        x,
        y,
        batch_size=32,
        shuffle=False,
        epochs=EPOCHS,
        verbose=0,
        validation_data=(x, y),
        callbacks=[*kept, Slow()],
    )
    kernels = find_kernels(model)
    masks = {f"mask{i}": known_mask(kernel) for i, kernel in enumerate(kernels)}
    weights = {f"weight{i}": value for i, value in enumerate(model.get_weights())}
    np.savez(folder / "done.npz", **weights, **masks)


def start(method: str, folder: Path) -> subprocess.Popen:
    """Trains in a process of its own."""
    command = [sys.executable, __file__, "--train", method, "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    """Waits for a training that nobody disturbs."""
    error = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(error[-2000:])


def measure(method: str, kills: int, rng: random.Random) -> dict:
    """One run left alone, one killed at random moments; the largest difference of their weights."""
    with tempfile.TemporaryDirectory() as name:
        alone, killed = Path(name) / "alone", Path(name) / "killed"
        alone.mkdir()
        killed.mkdir()
        finish(start(method, alone))
        done = 0
        while done < kills:
            process = start(method, killed)
            if not process.stdout.readline():
                finish(process)
                break
            time.sleep(rng.uniform(*SECONDS))
            process.kill()
            process.communicate()
            done += 1
        if not (killed / "done.npz").exists():
            finish(start(method, killed))
        one, two = np.load(alone / "done.npz"), np.load(killed / "done.npz")
        differences = [float(np.abs(one[key] * 1.0 - two[key]).max()) for key in one.files]
        return {
            "method": method,
            "kills": done,
            "largest_difference": max(differences),
            "zeros": int(sum((~one[key]).sum() for key in one.files if key.startswith("mask"))),
            "masks_equal": all(
                bool((one[key] == two[key]).all()) for key in one.files if key.startswith("mask")
            ),
        }


def main() -> None:
    """Runs the methods and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/kills.json"))
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.folder)
        return
    from kit.machine import describe_machine
    from kit.results import write

    rng = random.Random(options.seed)
    old = json.loads(options.output.read_text())["results"] if options.output.exists() else []
    results = {result["method"]: result for result in old}
    for method in options.methods:
        results[method] = measure(method, options.kills, rng)
        print(json.dumps(results[method]))
    record = {"machine": describe_machine(), "seed": options.seed, "results": [*results.values()]}
    write(options.output, record)


if __name__ == "__main__":
    main()
