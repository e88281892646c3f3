"""Does pruning hold on several devices as it does on one?

    KERAS_BACKEND=tensorflow python benchmarks/distribution.py

With jax or torch, too. It trains a small net on scikit-learn's digits with each of the backend's
ways to spread training over devices, virtual ones of this processor, or over processes, and once on
a single device with the same batches. For each way and for `callbacks.Pruning`,
`callbacks.BudgetPruning` and a coupled penalty it records whether all workers hold the same zeros,
whether these are those of one device, and the largest difference of the weights; and whether the
result shrinks and exports. `--output` gets the table as JSON, to which each backend adds its own
rows.

Where Keras' `fit` does not run over processes (PyTorch's DistributedDataParallel, TensorFlow's
MultiWorkerMirroredStrategy) the loop is written by hand and `prune` cuts between epochs. There
training is also stopped three times, by the death of one of its processes in the middle of an
epoch, and goes on in new ones from the model that the first process saves after each epoch.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS, BATCH, EXAMPLES = 8, 64, 1024
WHAT = ("pruning", "budget", "coupled")
# Each engine: its backend, workers (processes), and devices in each of them.
ENGINES = {
    "MirroredStrategy": ("tensorflow", 1, 2),
    "MultiWorkerMirroredStrategy": ("tensorflow", 2, 1),
    "DataParallel": ("jax", 1, 4),
    "ModelParallel": ("jax", 1, 4),
    "DistributedDataParallel": ("torch", 2, 1),
}
# Epochs in whose middle a worker is killed: before the cut, between the cut and its file, after it.
KILLS = (2, EPOCHS // 2, 6)
BY_HAND = ("MultiWorkerMirroredStrategy", "DistributedDataParallel")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The first images of scikit-learn's digits, flat, from 0 to 1."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x[:EXAMPLES] / 16).astype("float32"), y[:EXAMPLES]


def build(what: str) -> Any:
    """A compiled net with the penalty that goes with what is tried."""
    import keras

    import keras_hoyer as kh

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, "relu"),
            keras.layers.Dense(16, "relu"),
            keras.layers.Dense(10),
        ]
    )
    if what == "coupled":
        kh.regularize(model, kh.GroupHoyerSquare(1e-3), groups="coupled")
    else:
        kh.regularize(model, kh.HoyerSquare(1e-4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    return model


def cutting(what: str) -> tuple[Any, Any]:
    """Criterion and pattern of what is tried."""
    import keras_hoyer as kh

    if what == "coupled":
        return kh.criteria.TargetFlops(0.5), kh.patterns.Channel()
    return kh.criteria.TargetSparsity(0.5), kh.patterns.Unstructured()


def fit(model: Any, what: str, x: Any, y: Any) -> None:
    """Trains and cuts with Keras' own loop."""
    import keras_hoyer as kh

    criterion, pattern = cutting(what)
    if what == "budget":
        cut = kh.callbacks.BudgetPruning(0.05, begin=3, step=0.4)
    else:
        cut = kh.callbacks.Pruning(criterion, kh.schedules.OneShot(EPOCHS // 2), pattern)
    options = {"epochs": EPOCHS, "batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(x, y, validation_data=(x, y), callbacks=[cut], **options)


def resumed(what: str, folder: Path) -> Any:
    """The model that was saved after the last whole epoch, or a new one."""
    import keras

    import keras_hoyer  # noqa: F401  (so that Keras knows the penalties that the file names)

    kept = folder / "kept.keras"
    return keras.models.load_model(kept) if kept.exists() else build(what)


def by_hand(
    model: Any, what: str, step: Callable, x: Any, y: Any, worker: int, of: int, folder: Path
) -> None:
    """Trains with a step of one's own, each worker on its part of a batch; cuts between epochs."""
    import keras

    import keras_hoyer as kh

    steps = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    for epoch in range(steps * BATCH // len(x), EPOCHS):
        if epoch == EPOCHS // 2:
            kh.prune(model, *cutting(what))
        for start in range(0, len(x), BATCH):
            if start == len(x) // 2 and worker == 1 and (folder / f"kill{epoch}").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            part = slice(start + worker * BATCH // of, start + (worker + 1) * BATCH // of)
            step(x[part], y[part])
        # By all, since TensorFlow sums what the workers have; under another name, since a process
        # that dies here is to leave the old file.
        new = folder / f"new{worker}.keras"
        model.save(new)
        if worker == 0:
            new.replace(folder / "kept.keras")


def run_engine(engine: str, what: str, worker: int, folder: Path) -> None:
    """Trains in this process as one worker, and leaves weights and masks in `folder`."""
    x, y = digits()
    model = {
        "one device": one_device,
        "one device by hand": one_device_by_hand,
        "MirroredStrategy": mirrored,
        "MultiWorkerMirroredStrategy": multi_worker,
        "DataParallel": data_parallel,
        "ModelParallel": model_parallel,
        "DistributedDataParallel": data_parallel_processes,
    }[engine](what, x, y, worker, folder)
    save(model, folder, worker, what, x)


def save(model: Any, folder: Path, worker: int, what: str, x: np.ndarray) -> None:
    """Writes what the worker has; the first one also shrinks and exports."""
    import keras

    import keras_hoyer as kh

    weights = {f"weight {i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(model.weights)}
    replicas = {
        f"replica {j} of {i}": value
        for i, v in enumerate(model.weights)
        for j, value in enumerate(_replicas(v))
    }
    np.savez(folder / f"worker{worker}.npz", **weights, **replicas)
    if worker == 0:
        expected = keras.ops.convert_to_numpy(model(x[:32]))
        model.save(folder / "model.keras")
        keras.distribution.set_distribution(None)
        loaded = keras.models.load_model(folder / "model.keras")
        small = kh.shrink(loaded)
        error = np.abs(keras.ops.convert_to_numpy(small(x[:32])) - expected).max()
        result = kh.export(small, folder / "small.npz")
        figures = {
            "parameters": int(small.count_params()),
            "held": int(kh.report(loaded).held),
            "shrink_error": float(error),
            "export_error": float(result.max_error),
        }
        (folder / "small.json").write_text(json.dumps(figures))


def _replicas(variable: Any) -> Iterator[np.ndarray]:
    """The copies of a variable on the devices of this process."""
    value = variable.value
    backend = os.environ["KERAS_BACKEND"]
    if backend == "tensorflow" and hasattr(value, "values"):
        yield from (part.numpy() for part in value.values)
    elif backend == "jax" and value.is_fully_replicated:
        yield from (np.asarray(shard.data) for shard in value.addressable_shards)


def one_device(what: str, x: np.ndarray, y: np.ndarray, worker: int, folder: Path) -> Any:
    """The reference: `fit` on one device."""
    model = build(what)
    fit(model, what, x, y)
    return model


def mirrored(what: str, x: np.ndarray, y: np.ndarray, worker: int, folder: Path) -> Any:
    """`tf.distribute.MirroredStrategy` on two virtual devices."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = build(what)
    fit(model, what, x, y)
    return model


def multi_worker(what: str, x: np.ndarray, y: np.ndarray, worker: int, folder: Path) -> Any:
    """`tf.distribute.MultiWorkerMirroredStrategy` with a loop by hand."""
    import tensorflow as tf

    import keras_hoyer as kh

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = resumed(what, folder)
    kh.keep_zeros(model)  # so that the step below, traced once, keeps the zeros of the cut to come

    def one(images: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(images, labels, model(images, training=True))
            loss = loss / strategy.num_replicas_in_sync
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        model.optimizer.apply(gradients, model.trainable_variables)

    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
        step = tf.function(lambda images, labels: strategy.run(one, args=(images, labels)))
        by_hand(model, what, step, x, y, worker, strategy.num_replicas_in_sync, folder)
    return model


def one_device_by_hand(what: str, x: np.ndarray, y: np.ndarray, worker: int, folder: Path) -> Any:
    """The reference of the loops by hand."""
    model = build(what)
    if os.environ["KERAS_BACKEND"] == "torch":
        step = torch_step(model, model)
    else:

        def step(images: Any, labels: Any) -> None:
            model.train_on_batch(images, labels)

    by_hand(model, what, step, x, y, 0, 1, folder)
    return model


def data_parallel(what: str, x: np.ndarray, y: np.ndarray, worker: int, folder: Path) -> Any:
    """`keras.distribution.DataParallel` on JAX."""
    import keras

    keras.distribution.set_distribution(keras.distribution.DataParallel())
    return one_device(what, x, y, worker, folder)


def model_parallel(what: str, x: np.ndarray, y: np.ndarray, worker: int, folder: Path) -> Any:
    """`keras.distribution.ModelParallel` on JAX: kernels are split, batches as well."""
    import keras

    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
    layout = keras.distribution.LayoutMap(mesh)
    layout["dense(_[0-9])?/kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    return one_device(what, x, y, worker, folder)


def torch_step(model: Any, module: Any) -> Callable:
    """A step of PyTorch with the model's own loss and optimizer."""

    def step(images: Any, labels: Any) -> None:
        model.zero_grad()
        loss = model.compute_loss(images, labels, module(images))
        loss.backward()
        variables = model.trainable_variables
        model.optimizer.apply([v.value.grad for v in variables], variables)

    return step


def data_parallel_processes(
    what: str, x: np.ndarray, y: np.ndarray, worker: int, folder: Path
) -> Any:
    """PyTorch's DistributedDataParallel, in processes, with a loop by hand."""
    import torch

    torch.distributed.init_process_group("gloo", rank=worker, world_size=2)
    model = resumed(what, folder)
    module = torch.nn.parallel.DistributedDataParallel(model)
    by_hand(model, what, torch_step(model, module), x, y, worker, 2, folder)
    torch.distributed.destroy_process_group()
    return model


def start(engine: str, what: str, folder: Path, kills: Sequence[int] = ()) -> None:
    """Trains in as many processes as the engine has workers, of which some are killed at first."""
    for epoch in kills:
        note = folder / f"kill{epoch}"
        note.touch()
        others, killed = launch(engine, what, folder)
        error = killed.communicate(timeout=600)[1]
        others.kill()  # it may wait for ever for what the other was to send
        others.communicate()
        if killed.returncode != -signal.SIGKILL:
            raise RuntimeError(f"{engine}, {what}, before its kill: {error[-3000:]}")
        note.unlink()
    processes = launch(engine, what, folder)
    errors = [process.communicate(timeout=600)[1] for process in processes]
    for process, error in zip(processes, errors, strict=True):
        if process.returncode:
            raise RuntimeError(f"{engine}, {what}: {error[-3000:]}")


def launch(engine: str, what: str, folder: Path) -> list[subprocess.Popen]:
    """The processes of an engine, one a worker."""
    _, workers, devices = ENGINES.get(engine, ("", 1, 1))
    ports = [_free_port() for _ in range(workers)]
    processes = []
    for worker in range(workers):
        env = {**os.environ, "MASTER_ADDR": "localhost", "MASTER_PORT": str(ports[0])}
        if devices > 1:
            env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
            # With fewer threads than devices, those that run wait for ever for those that cannot.
            env["NPROC"] = env["PJRT_NPROC"] = str(4 * devices)
        if engine == "MultiWorkerMirroredStrategy":
            cluster = {"worker": [f"localhost:{port}" for port in ports]}
            task = {"type": "worker", "index": worker}
            env["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        command = [sys.executable, __file__, "--engine", engine, "--what", what]
        command += ["--worker", str(worker), "--folder", str(folder)]
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    return processes


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        return bound.getsockname()[1]


def measure(engine: str, what: str, kills: Sequence[int] = ()) -> dict:
    """One engine, killed in these epochs, beside one device that is not."""
    _, workers, devices = ENGINES[engine]
    with tempfile.TemporaryDirectory() as name:
        alone, spread = Path(name) / "alone", Path(name) / "spread"
        alone.mkdir()
        spread.mkdir()
        start("one device by hand" if engine in BY_HAND else "one device", what, alone)
        start(engine, what, spread, kills)
        one = np.load(alone / "worker0.npz")
        many = [np.load(spread / f"worker{i}.npz") for i in range(workers)]
        weights = [key for key in one.files if key.startswith("weight")]
        copies = [
            (file[f"weight {key.rpartition(' ')[2]}"], file[key])
            for file in many
            for key in file.files
            if key.startswith("replica")
        ]
        copies += [(many[0][key], file[key]) for file in many[1:] for key in weights]
        return {
            "backend": os.environ["KERAS_BACKEND"],
            "engine": engine,
            "processes": workers,
            "devices": devices,
            "what": what,
            "killed": len(kills),
            "zeros": int(sum((many[0][key] == 0).sum() for key in weights)),
            "equal_on_all": all(bool((a == b).all()) for a, b in copies),
            "copies_compared": len(copies),
            "zeros_of_one_device": all(
                bool(((one[key] == 0) == (many[0][key] == 0)).all()) for key in weights
            ),
            "largest_difference": max(
                float(np.abs(one[key] - many[0][key]).max()) for key in weights
            ),
            **json.loads((spread / "small.json").read_text()),
        }


def table(document: dict) -> str:
    """What held on which engine, as a Markdown table."""
    from kit.tables import table as markdown

    header = ("engine", "devices", "what", "zeros equal on all", "of one device", "difference")
    lines = [
        (
            f"{row['engine']} ({row['backend']})",
            f"{row['processes']} x {row['devices']}",
            row["what"] + (f", killed {row['killed']} times" if row.get("killed") else ""),
            "yes" if row["equal_on_all"] else "no",
            "yes" if row["zeros_of_one_device"] else "no",
            f"{row['largest_difference']:.1e}",
        )
        for results in document.values()
        for row in results["rows"]
    ]
    return "\n".join(markdown(header, lines)).rstrip()


def main() -> None:
    """Runs the backend's engines and adds what was found to the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/distribution.json"))
    parser.add_argument("--engine", help="only this one")
    parser.add_argument("--what", choices=WHAT, help="only this")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if options.folder:
        run_engine(options.engine, options.what, options.worker, options.folder)
        return
    from kit.machine import describe_machine

    backend = os.environ["KERAS_BACKEND"]
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    rows = []
    for engine, (its_backend, *_) in ENGINES.items():
        if its_backend != backend or options.engine not in (None, engine):
            continue
        for what in WHAT if options.what is None else (options.what,):
            if engine in BY_HAND and what == "budget":
                continue  # a callback, which a loop by hand does not call
            for kills in ((), KILLS) if engine in BY_HAND else ((),):
                rows.append(measure(engine, what, kills))
                print(json.dumps(rows[-1]), flush=True)
    results[backend] = {"machine": describe_machine(), "rows": rows}
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
