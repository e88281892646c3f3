"""A penalty that is chosen by the name of its operator."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_hoyer._checks import check_choice
from keras_hoyer.proximal.concave import l_half, log_sum, mcp, scad, transformed_l1
from keras_hoyer.proximal.convex import l1
from keras_hoyer.proximal.ratios import hoyer, hoyer_square

_OPERATORS: dict[str, Callable[..., Any]] = {
    operator.__name__: operator
    for operator in (l1, hoyer, hoyer_square, mcp, scad, transformed_l1, log_sum, l_half)
}
_SHARED = ("x", "strength", "axis", "pattern", "weights")

# How concave a penalty of strength 1 is: the quadratic beside it has to outweigh that, or the
# operator jumps. Those without a bound, l1/2 and Hoyer's, jump beside any quadratic.
_CONCAVITIES: dict[str, Callable[..., float]] = {
    "mcp": lambda threshold, gamma: 1 / gamma,
    "scad": lambda threshold, a: 1 / (a - 1),
    "transformed_l1": lambda a: 2 * (a + 1) / a**2,
    "log_sum": lambda epsilon: 1 / epsilon**2,
}


class Chosen:
    """A penalty by the name of its operator, with its own parameters.

    Args:
        name: Name of a function of `keras_hoyer.proximal`.
        parameters: Its parameters beside those that all share.

    Raises:
        ValueError: If there is no such penalty, or it takes no such parameters.

    >>> keras.ops.convert_to_numpy(Chosen("mcp", {"gamma": 2.0})([0.5, 3.0], 1.0)).tolist()
    [0.0, 3.0]
    >>> Chosen("mcp", {"gamma": 2.0}).concavity
    0.5
    """

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        check_choice("penalty", name, tuple(_OPERATORS))
        signature = inspect.signature(_OPERATORS[name]).parameters.values()
        known = {p.name: p.default for p in signature if p.name not in _SHARED}
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise ValueError(
                f"Invalid argument `{unknown[0]}` for penalty '{name}'. Expected "
                f"{', '.join(map(repr, known)) or 'no parameters'}. "
                f"Received: {unknown[0]}={parameters[unknown[0]]!r}"
            )
        self.name = name
        self.parameters = {**known, **parameters}
        self._operator = _OPERATORS[name]
        self(np.zeros(1, "float32"), 0.0)  # has the operator check its parameters

    def __call__(self, x: Any, strength: Any, **groups: Any) -> Any:
        """The operator: see `keras_hoyer.proximal`."""
        return self._operator(x, strength, **groups, **self.parameters)

    @property
    def concavity(self) -> float:
        """How concave the penalty of strength 1 is; 0 also where there is no bound."""
        concavity = _CONCAVITIES.get(self.name)
        return 0.0 if concavity is None else concavity(**self.parameters)
