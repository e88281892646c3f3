"""Sparse training by ADMM: the penalty acts through its proximal operator."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer._checks import check_number
from keras_hoyer.callbacks.accepted import file_beside_backup
from keras_hoyer.callbacks.base import Logs
from keras_hoyer.callbacks.shrinking import ShrinkingCallback
from keras_hoyer.callbacks.splits import Pieces
from keras_hoyer.patterns import Pattern, Unstructured
from keras_hoyer.plain import LayerSelection
from keras_hoyer.regularizers import pull

# Two files by turns, since a kill may come between one of them and Keras' own.
_NAMES = ("keras_hoyer_admm_0.npz", "keras_hoyer_admm_1.npz")
# Where `rho` is chosen by itself: of the strength, so that weights below 1/30 become zero at first,
# as fits kernels in their usual range; and of the concavity of the penalty.
_SHARE, _MARGIN = 30.0, 2.0


@dataclasses.dataclass
class _State:
    """The variables of ADMM beside the weights.

    Attributes:
        variables: The kernels, which tell whether another `fit` goes on with the same model.
        epoch: Number of epochs that are done.
        rho: Weight of the quadratic.
        split: Pieces that are sparse.
        dual: Pieces: how far the weights were from the split ones, summed over the steps.
    """

    variables: list[keras.Variable]
    epoch: int
    rho: float
    split: Pieces
    dual: Pieces

    def save(self, files: Sequence[Path]) -> None:
        """Writes the state, beside and then into place; that of the epoch before stays."""
        path = files[self.epoch % len(files)]
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"epoch": self.epoch, "rho": self.rho})
        arrays: dict[str, Any] = {"header": np.frombuffer(header.encode(), np.uint8)}
        for name, pieces in (("split", self.split), ("dual", self.dual)):
            arrays |= {f"{name}{i}": ops.convert_to_numpy(piece) for i, piece in enumerate(pieces)}
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **arrays)
        os.replace(temporary, path)

    @classmethod
    def load(cls, files: Sequence[Path], epoch: int, like: Pieces) -> "_State | None":
        """The state of a training that goes on at `epoch`; `None` if that is another one."""
        # At worst that of the epoch before, if Keras' file was written and ours was not yet.
        for last in (epoch, epoch - 1) if epoch else ():
            path = files[last % len(files)]
            state = cls._read(path, like) if path.is_file() else None
            if state is not None and state.epoch == last:
                return state
        return None

    @classmethod
    def _read(cls, path: Path, like: Pieces) -> "_State | None":
        """The state in a file; `None` if that is of other kernels."""
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            found: dict[str, Pieces] = {
                name: [stored[f"{name}{i}"] for i in range(len(like)) if f"{name}{i}" in stored]
                for name in ("split", "dual")
            }
        shapes = [tuple(piece.shape) for piece in like]
        if not all([piece.shape for piece in pieces] == shapes for pieces in found.values()):
            return None
        if not isinstance(like[0], np.ndarray):
            found = {name: list(map(ops.convert_to_tensor, found[name])) for name in found}
        return cls([], header["epoch"], header["rho"], **found)


class ADMM(ShrinkingCallback):
    """Trains with a penalty that acts through its proximal operator, and keeps the zeros it finds.

    The weights `w` minimize the loss beside `rho / 2 * sum((w - z + u)**2)`, which pulls them to a
    split variable; every so many steps that becomes `z = prox(w + u)`, which has exact zeros, and
    the dual variable `u` takes up what is between them. At the beginning of `epoch` the zeros of
    `z` are handed over to masks, as those of `Pruning` are, and what is left of `fit` is
    fine-tuning. It minimizes the mean loss plus `strength` times the penalty, as `regularize` with
    the penalty of that name does, but no gradient of the penalty is taken and no threshold chosen.

    Epoch logs get `sparsity`, the share of zero weights; `split_sparsity`, that of `z`; and
    `residual`, how far `w` is from `z` relative to its norm, which is to become small before the
    zeros are handed over: if it does not, let `rho` grow.

    Training that stops and goes on: with `keras.callbacks.BackupAndRestore` beside this callback,
    the split and the dual variable are kept in the same folder; put it behind this one, so that a
    kill between the two loses nothing. Two calls of `fit` with the same callback are like one.

    Source: Boyd et al., "Distributed optimization and statistical learning via ADMM" (2011); for
    group selection, Ke, Shin, Lou and Ahn (2024); for networks, Zhang et al., "A systematic DNN
    weight pruning framework using ADMM" (2018).

    Args:
        penalty: Name of the penalty: that of a function of `keras_hoyer.proximal`, such as `"l1"`,
            `"mcp"` or `"hoyer_square"`.
        strength: Positive float: what the penalty is multiplied with, beside the mean loss.
        epoch: Int: at the beginning of this epoch, or at the end of `fit` after as many epochs, the
            zeros are handed over.
        rho: Float, larger than the concavity of the penalty times its strength. Defaults to
            `None`: 30 times the strength, or twice that bound if it is more.
        growth: Float between 1 and 10: what `rho` is multiplied with after each epoch. Defaults
            to 1.1.
        every: Int: steps of training between two proximal steps; there is one at the beginning of
            each epoch besides. Defaults to 100; the operators of Hoyer's ratios sort each kernel,
            which takes as long as tens of steps of a small net, so ask for them less often.
        pattern: What is zero together: a pattern of `keras_hoyer.patterns`. With `Channel()` the
            groups are the channels of the model's graph; with `NByM` only those weights are
            penalized that the pattern would let go. Defaults to `Unstructured()`.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.
        **parameters: The penalty's own, such as `gamma=3.0`: see its function.

    Raises:
        ValueError: If there is no such penalty, an argument is out of its range, or `rho` is not
            larger than the penalty is concave; at the start of `fit`, if a layer name does not
            exist, there are no kernels, a kernel is frozen or has a penalty of this package, or
            the pattern does not divide a kernel.

    >>> import keras_hoyer as kh
    >>> x = np.random.default_rng(0).normal(size=(256, 20)).astype("float32")
    >>> y = x[:, :2] @ np.array([[1.0], [-2.0]], "float32")  # two weights of the twenty would do
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(keras.optimizers.SGD(0.05), "mse")
    >>> callback = kh.callbacks.ADMM("l1", strength=0.2, epoch=20, rho=1.0, every=4)
    >>> history = model.fit(x, y, epochs=25, verbose=0, callbacks=[callback])
    >>> kh.report(model).nonzero
    2
    """

    def __init__(
        self,
        penalty: str,
        strength: float,
        epoch: int,
        *,
        rho: float | None = None,
        growth: float = 1.1,
        every: int = 100,
        pattern: Pattern = Unstructured(),  # noqa: B008  (immutable)
        layers: LayerSelection = None,
        **parameters: Any,
    ) -> None:
        super().__init__(penalty, strength, epoch, every, pattern, layers, parameters)
        floor = strength * self._chosen.concavity
        if rho is None:
            rho = max(_SHARE * strength, _MARGIN * floor)
        expected = "a positive number"
        if floor:
            expected = (
                f"a number above {floor:g}, the concavity of '{penalty}' at this strength: below "
                "it the split variable would jump"
            )
        check_number("rho", rho, expected, lambda value: value > floor)
        check_number("growth", growth, "a number between 1 and 10", lambda value: 1 <= value <= 10)
        self.rho = rho
        self.growth = growth
        self._state: _State
        self._kept: _State | None = None
        self._pulls: pull.Pulls

    def on_train_begin(self, logs: Logs = None) -> None:
        """Checks what can be checked before time is spent."""
        super().on_train_begin(logs)
        self._files = [file for name in _NAMES if (file := file_beside_backup(name))]

    def begin(self, epoch: int) -> None:
        """Goes on with what was kept, or begins at the weights."""
        pieces = self._splits.read()
        variables = [kernel.variable for kernel in self._splits.kernels]
        kept = self._kept
        if kept is not None and (kept.epoch != epoch or not _same(kept.variables, variables)):
            kept = None
        if self._files:
            kept = _State.load(self._files, epoch, pieces) or kept
        self._pulls = pull.Pulls(self.model, self._splits.kernels, self._splits.counts)
        if kept is None:
            split = self._splits.shrink(pieces, self.strength / self.rho)
            dual = [piece * 0 for piece in pieces]
            self._state = _State(variables, epoch, self.rho, split, dual)
            self._aim()
        else:
            self._state = dataclasses.replace(kept, variables=variables)
            self.step(self.model)
            self.next_epoch()

    def step(self, model: keras.Model) -> None:
        """The proximal step and that of the dual variable."""
        state = self._state
        wanted = [w + u for w, u in zip(self._splits.read(), state.dual, strict=True)]
        state.split = self._splits.shrink(wanted, self.strength / state.rho)
        state.dual = [v - z for v, z in zip(wanted, state.split, strict=True)]
        self._aim()

    def next_epoch(self) -> None:
        """Lets `rho` grow, and scales the dual variable with it."""
        self._state.rho *= self.growth
        self._state.dual = [u / self.growth for u in self._state.dual]
        self._aim()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Writes the logs, and the state where a backup is kept."""
        super().on_epoch_end(epoch, logs)
        if not self._running:
            return
        self._state.epoch = epoch + 1
        if self._files:
            self._state.save(self._files)
        if logs is not None:
            logs["split_sparsity"], logs["residual"] = self._look()

    def alive(self) -> list[np.ndarray]:
        """For each entry of the units, which of them the split variable has."""
        return self._splits.alive(self._state.split)

    def end(self) -> None:
        """Takes the pulls off."""
        pull.release(self.model)
        self._kept = None if self._done else self._state

    def _aim(self) -> None:
        """Pulls the weights to where the split and the dual variable want them."""
        state = self._state
        targets = [z - u for z, u in zip(state.split, state.dual, strict=True)]
        self._pulls.set(state.rho, self._splits.mean(targets))

    def _look(self) -> tuple[float, float]:
        """The share of zeros of the split variable, and how far the weights are from it."""
        zeros = total = 0
        apart = size = 0.0
        for piece, split in zip(self._splits.read(), self._state.split, strict=True):
            w, z = (np.asarray(ops.convert_to_numpy(each)) for each in (piece, split))
            zeros, total = zeros + int(np.count_nonzero(z == 0)), total + z.size
            apart += float(np.square(w - z).sum(dtype="float64"))
            size += float(np.square(w).sum(dtype="float64"))
        return zeros / total, float(np.sqrt(apart / size)) if size else 0.0


def _same(one: list[keras.Variable], two: list[keras.Variable]) -> bool:
    return len(one) == len(two) and all(a is b for a, b in zip(one, two, strict=True))
