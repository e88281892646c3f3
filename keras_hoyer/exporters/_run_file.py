"""Runs LiteRT or ONNX files on stored inputs; started by file path, in a process of its own.

A broken file can end the process or never come back, so it is never run in the caller's before it
has run here. Only NumPy and the runtime are imported: the whole run takes a fraction of a second.

CALLS holds the input names and, as `{call}_{input}`, the arrays of each call.

Usage: _run_file.py describe INPUTS MODEL
           writes name, shape and dtype of each input as JSON; an open size is null
       _run_file.py run CALLS OUTPUTS MODEL
           all calls; writes arrays named `{call}/{output name}`, or number for ONNX
       _run_file.py time CALLS TIMES MODEL...
           the first call, again and again on each model by turns, on one thread; writes the
           medians in milliseconds as JSON
"""

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

# How long each file is timed, in seconds, and the most and fewest turns.
SECONDS, MOST, FEWEST = 1.0, 200, 10

# For how many seconds at least a file is run in each turn.
STRETCH = 2e-3

DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


def describe(inputs: str, model: str) -> None:
    """Writes what a file takes."""
    if model.endswith(".onnx"):
        places = _session(model).get_inputs()
        rows = [(p.name, p.shape, DTYPES.get(p.type, p.type[len("tensor(") : -1])) for p in places]
    else:
        details = _interpreter(model).get_signature_runner().get_input_details()
        rows = [
            (
                name,
                place["shape_signature"].tolist(),
                "float32" if _stands_for_floats(place) else place["dtype"].__name__.rstrip("_"),
            )
            for name, place in details.items()
        ]
    with open(inputs, "w") as file:
        # ONNX gives open sizes names, LiteRT the number -1.
        sizes = [
            [n if isinstance(n, int) and n > 0 else None for n in shape] for _, shape, _ in rows
        ]
        json.dump([(row[0], size, row[2]) for row, size in zip(rows, sizes, strict=True)], file)


def run(calls: str, out: str, model: str) -> None:
    """Writes the outputs of all calls."""
    import numpy as np  # noqa: PLC0415

    results = {}
    if model.endswith(".onnx"):
        session = _session(model)
        for call, arrays in enumerate(_load(calls)):
            outputs = session.run(None, _feed(session, arrays))
            results.update({f"{call}/{i}": array for i, array in enumerate(outputs)})
    else:
        runner = _interpreter(model).get_signature_runner()
        places = runner.get_output_details()
        for call, arrays in enumerate(_load(calls)):
            for name, array in runner(**_in_integers(runner, arrays)).items():
                results[f"{call}/{name}"] = _in_floats(places[name], array)
    np.savez(out, **results)


def time_files(calls: str, times: str, *models: str) -> None:
    """Writes the medians of the first call."""
    import statistics  # noqa: PLC0415

    arrays = _load(calls)[0]
    prepared = [prepare(model, arrays) for model in models]
    taken = time_by_turns(prepared, MOST, SECONDS, processor_clock())
    medians = map(statistics.median, taken)
    with open(times, "w") as file:
        json.dump(dict(zip(models, medians, strict=True)), file)


def prepare(model: str, arrays: dict[str, Any]) -> Callable[[], Any]:
    """A function that runs a file on these inputs, on one thread."""
    if model.endswith(".onnx"):
        session = _session(model, threads=1)
        feed = _feed(session, arrays)
        return lambda: session.run(None, feed)
    interpreter = _interpreter(model, threads=1)
    runner = interpreter.get_signature_runner()
    runner(**_in_integers(runner, arrays))  # sets shapes and inputs
    invoke: Callable[[], Any] = interpreter.invoke
    return invoke


def time_by_turns(
    calls: list[Callable[[], Any]],
    turns: int,
    seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Milliseconds of a call of each in each turn, for about so many seconds each at most.

    A turn begins with a call that does not count, since what others left in the caches would, and
    lasts a while; every second time they come in reverse.
    """
    repeats = [_repeats(call) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(calls)
    for turn in range(turns):
        if turn >= FEWEST and time.perf_counter() > end:
            break
        for index in range(len(calls))[:: 1 if turn % 2 == 0 else -1]:
            calls[index]()
            start = clock()
            for _ in range(repeats[index]):
                calls[index]()
            times[index].append(1000 * (clock() - start) / repeats[index])
    return times


def processor_clock() -> Callable[[], float]:
    """The clock of the time that a processor spends on this thread, if it is fine enough.

    What computes on one thread takes as much of it whatever else the machine does.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-5
    return time.thread_time if fine else time.perf_counter


def _repeats(call: Callable[[], Any]) -> int:
    """How many calls fill a turn."""
    start = time.perf_counter()
    call()
    return math.ceil(STRETCH / max(time.perf_counter() - start, 1e-6))


def _feed(session: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays by the file's names, or else in its order; it need not take unused inputs."""
    names = [place.name for place in session.get_inputs()]
    if set(names) <= set(arrays):
        return {name: arrays[name] for name in names}
    return dict(zip(names, arrays.values(), strict=True))


def _stands_for_floats(place: dict[str, Any]) -> bool:
    """Whether an input or output of a LiteRT file is in integers that have a scale."""
    return place["dtype"].__name__ in ("int8", "uint8", "int16") and place["quantization"][0] != 0


def _in_integers(runner: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Inputs as the file takes them: floats become integers where it takes those for them."""
    import numpy as np  # noqa: PLC0415

    given = dict(arrays)
    for name, place in runner.get_input_details().items():
        if _stands_for_floats(place):
            scale, zero = place["quantization"]
            limits = np.iinfo(place["dtype"])
            values = np.round(arrays[name] / scale) + zero
            given[name] = np.clip(values, limits.min, limits.max).astype(place["dtype"])
    return given


def _in_floats(place: dict[str, Any], array: Any) -> Any:
    """An output as the floats that it stands for."""
    if not _stands_for_floats(place):
        return array
    scale, zero = place["quantization"]
    return ((array.astype("float64") - zero) * scale).astype("float32")


def _load(calls: str) -> list[dict[str, Any]]:
    import numpy as np  # noqa: PLC0415

    with np.load(calls) as stored:
        names = stored["names"].tolist()
        return [
            {name: stored[f"{call}_{i}"] for i, name in enumerate(names)}
            for call in range(int(stored["count"]))
        ]


def _session(model: str, threads: int = 0) -> Any:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0 leaves it to the runtime
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _interpreter(model: str, threads: int | None = None) -> Any:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    return Interpreter(model_path=model, num_threads=threads)


if __name__ == "__main__":
    # The script's folder comes first on the path: its modules must not hide installed packages.
    del sys.path[0]
    mode, *paths = sys.argv[1:]
    modes: dict[str, Callable[..., None]] = {"describe": describe, "run": run, "time": time_files}
    modes[mode](*paths)
