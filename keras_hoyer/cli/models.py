"""Models in files, read and written for the commands; this imports Keras."""

from pathlib import Path

import keras

from keras_hoyer.cli.command import Answer
from keras_hoyer.cli.console import Console
from keras_hoyer.exporters import export, training_state
from keras_hoyer.graph.costs import count_flops


def load(path: Path, console: Console, compile: bool = False) -> keras.Model:
    """Reads a `.keras` file; a `ValueError` in one line if Keras cannot."""
    with console.step(f"loading {path}"):
        try:
            return keras.models.load_model(path, compile=compile)
        except Exception as error:  # custom layers raise anything
            # Keras wraps the error of a layer into one of each model around it.
            reason = str(error).split("Exception encountered: ")[-1].strip().splitlines() or [""]
            raise ValueError(
                f"Keras cannot load {path}: {type(error).__name__}: {reason[0]} If the model has "
                "layers or losses of your own, pass --import MODULE with the module that "
                "registers them"
            ) from error


def write(path: Path, model: keras.Model, console: Console) -> Answer:
    """Writes a `.keras` file that is read back; the answer tells the model from its training."""
    with console.step(f"writing {path}"):
        result = export(model, path)
        state = training_state.bytes_of(path)
    size = result.bytes - state
    text = f"{path}: {size:,} bytes"
    if state:
        text += f", and {state:,} of training state (the optimizer's)"
    values = {"path": str(path), "bytes": size, "training_state_bytes": state}
    return Answer(values, text)


def total_flops(model: keras.Model) -> int:
    """Multiply-adds for one example."""
    return sum(count_flops(model).values())
