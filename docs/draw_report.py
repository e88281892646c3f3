"""Draws `docs/report.png`, what `report(model).plot()` gives: python docs/draw_report.py."""

from pathlib import Path

import keras
import matplotlib

matplotlib.use("Agg")
from sklearn.datasets import load_digits

import keras_hoyer as kh

keras.utils.set_random_seed(0)
digits = load_digits()
x, y = (digits.images / 16).astype("float32")[..., None], digits.target
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, activation="relu", name="edges"),
        keras.layers.Conv2D(64, 3, activation="relu", name="strokes"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, name="digits"),
    ]
)
kh.regularize(model, kh.GroupHoyerSquare(1e-3), groups="coupled")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
cut = kh.callbacks.Pruning(
    kh.criteria.TargetFlops(0.5), kh.schedules.OneShot(epoch=15), kh.patterns.Channel()
)
model.fit(x[:1400], y[:1400], epochs=20, verbose=0, callbacks=[cut])
kh.report(model).plot().savefig(Path(__file__).with_name("report.png"), dpi=110)
