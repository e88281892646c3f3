"""Runs LiteRT or ONNX files on stored inputs; started by file path, in a process of its own.

A broken file can end the process or never come back, so it is never run in the caller's. Only NumPy
and the runtime are imported: the whole run takes a fraction of a second.

CALLS holds the input names and, as `{call}_{input}`, the arrays of each call.

Usage: _run_file.py run CALLS OUTPUTS MODEL
           all calls; writes arrays named `{call}/{output name}`, or number for ONNX
       _run_file.py time CALLS TIMES MODEL...
           the first call, again and again on each model by turns, on one thread; writes the
           medians in milliseconds as JSON
"""

import sys

# How long each file is timed, in seconds, and the most and fewest turns.
SECONDS, MOST, FEWEST = 1.0, 200, 10


def main(mode: str, calls: str, out: str, *models: str) -> None:
    """Does what the usage says."""
    import json  # noqa: PLC0415
    import statistics  # noqa: PLC0415
    import time  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    with np.load(calls) as stored:
        names = stored["names"].tolist()
        inputs = [
            {name: stored[f"{call}_{i}"] for i, name in enumerate(names)}
            for call in range(int(stored["count"]))
        ]
    results = {}
    if mode == "run" and models[0].endswith(".onnx"):
        import onnxruntime  # noqa: PLC0415

        session = onnxruntime.InferenceSession(models[0], providers=["CPUExecutionProvider"])
        places = [place.name for place in session.get_inputs()]
        for call, arrays in enumerate(inputs):
            outputs = session.run(None, dict(zip(places, arrays.values(), strict=True)))
            results.update({f"{call}/{i}": array for i, array in enumerate(outputs)})
        np.savez(out, **results)
        return

    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    if mode == "run":
        runner = Interpreter(model_path=models[0]).get_signature_runner("serving_default")
        for call, arrays in enumerate(inputs):
            for name, array in runner(**arrays).items():
                results[f"{call}/{name}"] = array
        np.savez(out, **results)
        return

    interpreters = {}
    for model in models:
        interpreter = Interpreter(model_path=model, num_threads=1)
        interpreter.get_signature_runner("serving_default")(**inputs[0])  # sets shapes and inputs
        interpreters[model] = interpreter
    times = {model: [] for model in models}
    end = time.perf_counter() + SECONDS * len(models)
    for turn in range(MOST):
        if turn >= FEWEST and time.perf_counter() > end:
            break
        for model, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            times[model].append(1000 * (time.perf_counter() - start))
    with open(out, "w") as file:
        json.dump({model: statistics.median(each) for model, each in times.items()}, file)


if __name__ == "__main__":
    # The script's folder comes first on the path: its modules must not hide installed packages.
    del sys.path[0]
    main(*sys.argv[1:])
