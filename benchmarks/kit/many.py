"""Many trainings of one small net at once, compiled as a whole: for plans of hundreds of runs.

A net of some thousand weights spends its time in `fit` on everything but arithmetic. Here all
steps of all trainings are one compiled function, made from the net's own `stateless_call`, its
penalties and Keras' optimizer. JAX only.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kit.training import LOSS

# Trainable and other weights of a model.
State = tuple[list[np.ndarray], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the trainings.

    Attributes:
        state: Where it begins.
        factor: What the model's penalties are multiplied with.
        rate: Learning rate at the beginning; it decays to 0.
        seed: Of the order of the images.
    """

    state: State
    factor: float
    rate: float
    seed: int


def state_of(model: keras.Model) -> State:
    """Copies of a model's weights."""
    return _arrays(model.trainable_variables), _arrays(model.non_trainable_variables)


def set_state(model: keras.Model, state: State) -> None:
    """Gives a model these weights."""
    for variable, value in zip(model.trainable_variables, state[0], strict=True):
        variable.assign(value)
    for variable, value in zip(model.non_trainable_variables, state[1], strict=True):
        variable.assign(value)


def train_many(
    model: keras.Model,
    members: Sequence[Member],
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    batch: int,
    hold_zeros: bool = False,
) -> list[State]:
    """Trains each member by Adam; returns where they end.

    Args:
        model: The net; penalties on its weights have the factor 1, and count as the members say.
        members: The trainings.
        x: The inputs.
        y: The labels.
        epochs: Number of epochs.
        batch: Number of inputs of a step; what is left of an epoch is not used.
        hold_zeros: Whether entries of kernels that are zero stay zero.
    """
    steps = epochs * (len(x) // batch)
    orders = np.stack([_order(member.seed, len(x), epochs, batch) for member in members])
    stacked = jax.tree.map(lambda *values: np.stack(values), *(m.state for m in members))
    factors = jnp.array([member.factor for member in members])
    rates = jnp.array([member.rate for member in members])
    train = _training(model, jnp.array(x), jnp.array(y), steps, hold_zeros)
    ends = jax.device_get(jax.jit(jax.vmap(train))(stacked, factors, rates, orders))
    return [jax.tree.map(lambda values, i=i: values[i], ends) for i in range(len(members))]


def _training(model: keras.Model, x: Any, y: Any, steps: int, hold_zeros: bool) -> Any:
    """The function that trains one member."""
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    begun = [jnp.array(variable.value) for variable in optimizer.variables]
    [rate_at] = [i for i, v in enumerate(optimizer.variables) if v.name == "learning_rate"]

    def loss(trained: list, others: list, factor: Any, chosen: Any) -> tuple:
        outputs, others, penalties = model.stateless_call(
            trained, others, x[chosen], training=True, return_losses=True
        )
        return LOSS(y[chosen], outputs) + factor * sum(penalties), others

    def train(state: Any, factor: Any, rate: Any, order: Any) -> Any:
        masks = [value != 0 if hold_zeros and value.ndim > 1 else None for value in state[0]]

        def step(carried: tuple, now: tuple) -> tuple:
            trained, others, slots = carried
            number, chosen = now
            slope = jax.grad(loss, has_aux=True)
            gradients, others = slope(trained, others, factor, chosen)
            slots[rate_at] = rate * (1 + jnp.cos(jnp.pi * number / steps)) / 2
            trained, slots = optimizer.stateless_apply(slots, gradients, trained)
            trained = [
                value if mask is None else jnp.where(mask, value, 0)
                for value, mask in zip(trained, masks, strict=True)
            ]
            return (trained, others, slots), None

        carried, _ = jax.lax.scan(step, (*state, list(begun)), (jnp.arange(steps), order))
        return carried[:2]

    return train


def _order(seed: int, images: int, epochs: int, batch: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    used = images // batch * batch
    orders = [generator.permutation(images)[:used].reshape(-1, batch) for _ in range(epochs)]
    return np.concatenate(orders).astype("int32")


def _arrays(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
