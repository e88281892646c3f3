"""Runs one LiteRT file on stored inputs; started by file path, in a process of its own.

A broken file can end the process or never come back, so it is never run in the caller's. Only NumPy
and the interpreter are imported: the whole run takes a fraction of a second.

Usage: _run_litert.py MODEL CALLS OUTPUTS. CALLS holds the input names and, as `{call}_{input}`, the
arrays of each call; the outputs are written as `{call}/{output name}`.
"""

import sys


def main(model: str, calls: str, outputs: str) -> None:
    """Runs every call in order and writes what came out."""
    import numpy as np  # noqa: PLC0415
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    runner = Interpreter(model_path=model).get_signature_runner("serving_default")
    with np.load(calls) as stored:
        names = stored["names"].tolist()
        results = {}
        for call in range(int(stored["count"])):
            inputs = {name: stored[f"{call}_{i}"] for i, name in enumerate(names)}
            for name, array in runner(**inputs).items():
                results[f"{call}/{name}"] = array
    np.savez(outputs, **results)


if __name__ == "__main__":
    # The script's folder comes first on the path: its modules must not hide installed packages.
    del sys.path[0]
    main(*sys.argv[1:])
