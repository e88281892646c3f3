"""Zeros that stay: a mask held as a Keras constraint.

Keras applies constraints at the end of every optimizer step, on every backend, inside the compiled
training step. That makes a constraint the one place where no optimizer, momentum, weight decay or
loss scaling can bring a pruned weight back, and where nothing runs in Python per batch.
"""

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer._keras import current_optimizer, moving_averages
from keras_hoyer._packing import PackedMask
from keras_hoyer.weights import Weight, refresh_compiled, warn_unsaved


@keras.saving.register_keras_serializable(package="keras_hoyer")
class KeepZeros(keras.constraints.Constraint):
    """Keeps chosen weights at exactly zero.

    The masks are part of the config, so a `.keras` file brings them back.

    Args:
        masks: Dict from a weight's path within its layer, such as `"kernel"` or `"query/kernel"`,
            to a boolean array of the weight's shape, false where the weight stays zero.
        constraint: Another constraint that is applied before. Defaults to `None`.

    >>> keep = KeepZeros({"kernel": np.array([True, False])})
    >>> keras.ops.convert_to_numpy(keep(np.array([1.0, -2.0], "float32")))
    array([1., 0.], dtype=float32)
    """

    def __init__(
        self, masks: Mapping[str, Any], constraint: keras.constraints.Constraint | None = None
    ) -> None:
        self.constraint = keras.constraints.get(constraint)
        # Those of a config stay packed until their weight is seen, see `_packing`.
        self._masks: dict[str, Any] = {}
        self._bits: dict[str, Any] = {}
        self._weight: str | None = None
        if not isinstance(masks, Mapping):
            raise ValueError(
                "Invalid value for argument `masks`. Expected a dict from names to boolean arrays. "
                f"Received: masks={masks!r:.100}"
            )
        for name, mask in masks.items():
            if isinstance(mask, Mapping):
                self._masks[name] = PackedMask.from_config(mask)
            else:
                self.set_mask(name, mask)

    def bound_to(self, name: str) -> "KeepZeros":
        """The same masks, for the weight `name` alone, which may then be a bare array."""
        bound = copy.copy(self)
        bound._weight = name
        return bound

    def set_mask(self, name: str, mask: np.ndarray) -> None:
        """Sets the mask of the weight `name`, a boolean array of the weight's shape."""
        self._bits.pop(name, None)
        if isinstance(self._masks.get(name), keras.Variable):
            self._masks[name].assign(mask)
        else:
            self._masks[name] = _on_backend(np.asarray(mask, bool))

    def get_mask(self, name: str, shape: Sequence[int] | None = None) -> np.ndarray | None:
        """The mask of the weight `name` as a boolean array; `None` if it has none.

        Args:
            name: the weight.
            shape: its shape, which a mask from a file must have. Defaults to any.
        """
        mask = self._masks.get(name)
        if mask is None:
            return None
        if shape is not None:
            self._check_shape(name, shape)
        return mask.unpack() if isinstance(mask, PackedMask) else ops.convert_to_numpy(mask)

    def __call__(self, w: Any) -> Any:
        """Returns the weight with its zeros restored; on PyTorch a variable is changed in place."""
        name = self._name_of(w)
        if name is not None:
            self._restore_average(name, w)
        if self.constraint is not None:
            w = self.constraint(w)
        if name is None:
            return ops.convert_to_tensor(w)
        if keras.backend.backend() == "torch" and isinstance(w, keras.Variable):
            return self._mask_in_place(name, w.value)
        return self.apply_mask(name, w)

    def apply_mask(self, name: str, w: Any) -> Any:
        """Returns `w` as a tensor, with zeros where the mask of the weight `name` is false."""
        w = ops.convert_to_tensor(w)
        mask = ops.convert_to_tensor(self._mask_for(name, w))
        # Not a product, which leaves -0.0 and turns infinity into NaN.
        return ops.where(mask, w, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the masks, packed to bits and compressed, and the other constraint."""
        return {
            "masks": {name: self._packed(name).to_config() for name in self._masks},
            "constraint": keras.constraints.serialize(self.constraint),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KeepZeros":
        """The constraint that `get_config` described."""
        if not {"masks"} <= set(config) <= {"masks", "constraint"}:
            raise ValueError(
                "Invalid config of a KeepZeros. Expected 'masks' and 'constraint'. "
                f"Received: {sorted(config)!r:.100}"
            )
        return cls(**config)

    def _packed(self, name: str) -> PackedMask:
        mask = self._masks[name]
        if isinstance(mask, PackedMask):
            return mask
        return PackedMask.pack(ops.convert_to_numpy(mask))

    def _mask_for(self, name: str, w: Any) -> Any:
        """The mask as the backend holds it, of the shape of the weight."""
        self._check_shape(name, w.shape)
        mask = self._masks[name]
        if isinstance(mask, PackedMask):
            mask = self._masks[name] = _on_backend(mask.unpack())
        return mask

    def _mask_in_place(self, name: str, w: Any) -> Any:
        """Masks a PyTorch tensor by a bitwise "and", which is faster there than `where`."""
        import torch  # noqa: PLC0415  (only where it is the backend)

        bits = self._bits.get(name)
        if bits is None or (bits.shape, bits.itemsize) != (w.shape, w.itemsize):
            mask = self._mask_for(name, w)
            dtype = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[w.itemsize]
            bits = self._bits[name] = -mask.value.to(w.device, dtype)
        w.detach().view(bits.dtype).bitwise_and_(bits.to(w.device))
        return w

    def _check_shape(self, name: str, expected: Sequence[int]) -> None:
        shape = tuple(self._masks[name].shape)
        if tuple(expected) != shape:
            raise ValueError(
                f"The mask of weight '{name}' has shape {shape}, the weight has shape "
                f"{tuple(expected)}. A layer that is built anew in another size needs another "
                "constraint: take the masks off with `strip` before its config is taken."
            )

    def _restore_average(self, name: str, variable: Any) -> None:
        """Restores the zeros of the optimizer's moving average of the weight as well.

        An optimizer with `use_ema=True` averages before it calls the constraint, and writes the
        average over the weight when training ends.
        """
        optimizer = current_optimizer()
        average = None if optimizer is None else find_average(optimizer, variable)
        if average is not None:
            average.assign(self.apply_mask(name, average))

    def _name_of(self, w: Any) -> str | None:
        """Name of the weight that is being constrained; `None` if it has no mask.

        The parts of an attention layer share one constraint, and are told apart by their path.
        """
        if self._weight is not None:
            return self._weight
        path = getattr(w, "path", None)
        if path is not None:
            return next((name for name in self._masks if f"/{path}".endswith(f"/{name}")), None)
        if len(self._masks) > 1 or any("/" in name for name in self._masks):
            raise ValueError(
                f"A bare array was constrained by the masks of {', '.join(self._masks)}, and does "
                "not say which of these it is. `keep_zeros(model)` gives each variable a "
                "constraint of its own; call it first."
            )
        return next(iter(self._masks), None)


def apply_masks(model: keras.Model, masks: Mapping[Weight, np.ndarray]) -> None:
    """Sets weights to zero where their mask is false, and keeps them so."""
    # On JAX a compiled step holds the masks it was traced with; elsewhere it reads the variable.
    stale = keras.backend.backend() == "jax" and bool(masks)
    new = []
    for weight, mask in masks.items():
        constraint = weight.get("constraint")
        if not isinstance(constraint, KeepZeros):
            constraint = KeepZeros({}, constraint)
            new.append(weight)
        constraint = _shared(weight) or constraint
        constraint.set_mask(weight.name, mask)
        weight.set("constraint", constraint)
        weight.variable.constraint = constraint.bound_to(weight.name)
        weight.variable.assign(constraint.apply_mask(weight.name, weight.variable))
        _restore_averages(model, weight, constraint)
    warn_unsaved(new, "mask")
    if stale or new:
        refresh_compiled(model)


def _shared(weight: Weight) -> KeepZeros | None:
    """What the config keeps: the parts of one attention layer share a constraint there."""
    for carrier, prefix in weight.carriers[:1]:
        shared = getattr(carrier, f"{prefix}_constraint")
        return shared if isinstance(shared, KeepZeros) else None
    return None


def known_mask(weight: Weight) -> np.ndarray | None:
    """The mask that a weight has been given before; `None` if it has none."""
    constraint = weight.get("constraint")
    if not isinstance(constraint, KeepZeros):
        return None
    return constraint.get_mask(weight.name, weight.variable.shape)


def find_average(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> keras.Variable | None:
    """The optimizer's moving average of a weight; `None` if it has none."""
    if not (optimizer.use_ema and optimizer.built):
        return None
    averages = moving_averages(optimizer)
    return next((average for known, average in averages if known is variable), None)


def _restore_averages(model: keras.Model, weight: Weight, constraint: KeepZeros) -> None:
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for part in getattr(optimizer, "optimizers", [optimizer]):
        average = None if part is None else find_average(part, weight.variable)
        if average is not None:
            average.assign(constraint.apply_mask(weight.name, average))


def _on_backend(mask: np.ndarray) -> Any:
    """A mask held so that a step may be traced right now, and that costs the step nothing."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax  # noqa: PLC0415  (only where it is the backend)

        with jax.ensure_compile_time_eval():
            return jax.numpy.asarray(mask)
    with contextlib.ExitStack() as stack:
        if backend == "tensorflow":
            import tensorflow as tf  # noqa: PLC0415  (only where it is the backend)

            stack.enter_context(tf.init_scope())
        return keras.Variable(mask, dtype="bool", trainable=False, name="mask")
