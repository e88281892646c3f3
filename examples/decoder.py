"""A language model at half its multiply-adds: trained, cut, shrunk; it generates text as before.

    pip install "keras-hoyer[keras-hub,litert]"
    python examples/decoder.py [--flops 0.5] [--out DIR]

Trains a small decoder of KerasHub, a Qwen3, on the reference of the Python language, which comes
with Python itself, letter by letter. Trains on with a penalty over coupled channels, cuts attention
heads and feed-forward widths until the target is reached, shrinks the model and fine-tunes the
small one. Of each block as much goes, so that the small model is a `Qwen3CausalLM` as before: it
has `generate`, and loads where only KerasHub is. Where the backend is TensorFlow, both models are
exported to TFLite and the files are checked. Three minutes on two CPU cores.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import keras
import numpy as np
from keras_hub.models import Qwen3Backbone, Qwen3CausalLM
from keras_hub.samplers import TopPSampler

import keras_hoyer as kh

LETTERS = 128  # a letter is its number in ASCII
LENGTH, BATCH = 64, 32  # of what is trained on
GENERATED = 160  # letters of a text that is generated
PROMPT = "The statement "


def load_text() -> np.ndarray:
    """The reference of the Python language, which `help` shows in parts, as numbers of letters."""
    text = "\n\n".join(topics.values())
    return np.frombuffer(text.encode("ascii", "ignore"), np.uint8).astype("int32")


def pieces(text: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A text in pieces, as KerasHub's models take them, and for each letter the one after it."""
    count = (len(text) - 1) // LENGTH
    order = np.random.default_rng(0).permutation(count)  # KerasHub does not shuffle
    tokens, following = (
        text[first : count * LENGTH + first].reshape(count, LENGTH)[order] for first in (0, 1)
    )
    return {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}, following


def build_model(width: int) -> Qwen3CausalLM:
    """Builds three blocks with attention heads of 16 channels."""
    backbone = Qwen3Backbone(
        vocabulary_size=LETTERS,
        num_layers=3,
        num_query_heads=width // 16,
        num_key_value_heads=width // 16,
        head_dim=16,
        hidden_dim=width,
        intermediate_dim=4 * width,
    )
    return Qwen3CausalLM(backbone)


def train(model: keras.Model, data: Any, epochs: int, rate: float) -> None:
    """Trains with a learning rate that rises in the first tenth and then falls to 0."""
    steps = epochs * math.ceil(len(data[1]) / BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=rate, warmup_steps=steps // 10
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        sampler=TopPSampler(p=0.8, seed=0),
    )
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=2)


def perplexity(model: keras.Model, data: Any) -> float:
    """Among how many letters, all as likely, the model would be as unsure of the next one."""
    tokens, following = data
    logits = model.predict(tokens, batch_size=BATCH, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(following, logits, from_logits=True)
    return math.exp(float(np.mean(keras.ops.convert_to_numpy(losses))))


def generate(model: Qwen3CausalLM, rows: int) -> list[str]:
    """Goes on with the prompt, so many times beside each other."""
    prompt = np.zeros((rows, GENERATED), "int32")
    prompt[:, : len(PROMPT)] = [ord(letter) for letter in PROMPT]
    made = model.generate(
        {"token_ids": prompt, "padding_mask": (prompt > 0).astype("int32")}, stop_token_ids=None
    )
    return ["".join(map(chr, row)) for row in made["token_ids"]]


def speeds(models: Sequence[Qwen3CausalLM], rows: int, runs: int = 5) -> list[float]:
    """Letters a second that each model generates, the median of some runs, the models in turn."""
    times = np.empty((runs + 1, len(models)))
    for run in range(runs + 1):
        for column, model in enumerate(models):
            start = time.perf_counter()
            generate(model, rows)
            times[run, column] = time.perf_counter() - start
    # The first run compiles.
    return [rows * (GENERATED - len(PROMPT)) / float(s) for s in np.median(times[1:], axis=0)]


def write_file(model: keras.Model, path: Path, data: Any) -> int:
    """Exports a model, which runs and checks the file on held-out text; returns its bytes."""
    if keras.backend.backend() != "tensorflow":
        model.save(path := path.with_suffix(".keras"))
        return path.stat().st_size
    samples = {name: tokens[:BATCH] for name, tokens in data[0].items()}
    result = kh.export(model, path, representative_data=samples, sparse=False)
    print(result)
    return result.bytes


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flops", type=float, default=0.5, help="share of multiply-adds to keep")
    parser.add_argument("--out", type=Path, default=Path("out/decoder"), help="folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=96, help="of the model; a multiple of 16")
    parser.add_argument("--letters", type=int, help="how many of the text; all by default")
    parser.add_argument("--rows", type=int, default=32, help="how many texts are generated at once")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    text = load_text()[: args.letters]
    data, test = pieces(text[len(text) // 10 :]), pieces(text[: len(text) // 10])

    print("\n1. A dense model")
    model = build_model(args.width)
    train(model, data, epochs=3, rate=5e-3)
    dense_perplexity, dense_text = perplexity(model, test), generate(model, args.rows)[0]
    dense_bytes = write_file(model, args.out / "dense.tflite", test)

    print("\n2. Sparse training over coupled channels, then the cut")
    kh.regularize(model, kh.GroupHoyerSquare(3e-4), groups="coupled")
    train(model, data, epochs=1, rate=2e-3)
    criterion = kh.criteria.TargetFlops(args.flops, scope="layer")  # of heads as of widths
    kh.prune(model, criterion, kh.patterns.Channel(uniform=True))

    print("\n3. The small model, fine-tuned")
    small = kh.strip(kh.shrink(model, verbose=1))
    train(small, data, epochs=2, rate=2e-3)
    small_bytes = write_file(small, args.out / "small.tflite", test)
    small.save(args.out / "small.keras")

    dense_flops, small_flops = (sum(kh.count_flops(m).values()) for m in (model, small))
    dense_speed, small_speed = speeds([model, small], args.rows)
    small_text = generate(small, args.rows)[0]
    print(
        f"\nThe dense model:\n{dense_text}\n\nThe small one:\n{small_text}\n\n"
        "What came of it             dense        small\n"
        f"  perplexity           {dense_perplexity:10.3f}   {perplexity(small, test):10.3f}\n"
        f"  multiply-adds        {dense_flops:10,}   {small_flops:10,}"
        f"   {small_flops / dense_flops:.1%}\n"
        f"  parameters           {model.count_params():10,}   {small.count_params():10,}"
        f"   {small.count_params() / model.count_params():.1%}\n"
        f"  bytes of the file    {dense_bytes:10,}   {small_bytes:10,}"
        f"   {small_bytes / dense_bytes:.1%}\n"
        f"  letters a second     {dense_speed:10,.0f}   {small_speed:10,.0f}"
        f"   {small_speed / dense_speed:.1%}\n\n"
        f"The small model is a {type(small).__name__} with {small.backbone.num_query_heads} heads "
        f"and feed-forward layers of {small.backbone.intermediate_dim} in each block."
    )


if __name__ == "__main__":
    main()
