"""TensorFlow operations that tf2onnx has no conversion for, made of ones that ONNX has."""

from collections.abc import Callable
from typing import Any

import numpy as np


class Graph:
    """Makes the nodes that stand for one operation.

    Args:
        context: tf2onnx's graph.
        scope: name of the operation.
        dtype: of its first input, which constants get too.
    """

    def __init__(self, context: Any, scope: str, dtype: np.dtype) -> None:
        self.context, self.scope, self.dtype = context, scope, dtype

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """The output of a new node; numbers among its inputs become constants."""
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        node = self.context.make_node(kind, names, attr=attributes, op_name_scope=self.scope)
        output: str = node.output[0]
        return output

    def _constant(self, value: Any) -> str:
        from tf2onnx import utils  # noqa: PLC0415

        name = utils.make_name(f"{self.scope}/constant")
        output: str = self.context.make_const(name, np.asarray(value, self.dtype)).output[0]
        return output

    def zero_unless(self, y: str, value: str, otherwise: float = 0) -> str:
        """`value`, and `otherwise` wherever `y` is 0."""
        return self("Where", self("Equal", y, 0), otherwise, value)


def _erfc(graph: Graph, x: str) -> str:
    return graph("Sub", 1, graph("Erf", x))


def _expm1(graph: Graph, x: str) -> str:
    # exp(x) - 1 loses the digits of a small x, where tanh(x / 2) keeps them; beyond, it is exact.
    half = graph("Tanh", graph("Div", x, 2))
    small = graph("Div", graph("Mul", half, 2), graph("Sub", 1, half))
    return graph("Where", graph("Less", graph("Abs", x), 1), small, _exp_less_1(graph, x))


def _exp_less_1(graph: Graph, x: str) -> str:
    return graph("Sub", graph("Exp", x), 1)


def _log1p(graph: Graph, x: str) -> str:
    # log(u) x / (u - 1) with u = 1 + x takes back what rounding 1 + x loses (Kahan).
    u = graph("Add", x, 1)
    below = graph("Sub", u, 1)
    exact = graph("Div", graph("Mul", graph("Log", u), x), below)
    rounded_away = graph("Equal", below, 0)
    far = graph("Greater", x, 1e6)
    return graph("Where", rounded_away, x, graph("Where", far, graph("Log", u), exact))


def _product(function: Callable[[Graph, str], str]) -> Callable[[Graph, str, str], str]:
    def build(graph: Graph, x: str, y: str) -> str:
        return graph.zero_unless(x, graph("Mul", x, function(graph, y)))

    return build


# What each operation is made of.
_BUILDERS: dict[str, Callable[..., str]] = {
    "Erfc": _erfc,
    "Expm1": _expm1,
    "Log1p": _log1p,
    "Xlogy": _product(lambda graph, y: graph("Log", y)),
    "Xlog1py": _product(_log1p),
    "Xdivy": _product(lambda graph, y: graph("Reciprocal", y)),
    "MulNoNan": lambda graph, x, y: graph.zero_unless(y, graph("Mul", x, y)),
    "Inv": lambda graph, x: graph("Reciprocal", x),
    "L2Loss": lambda graph, x: graph("Div", graph("ReduceSumSquare", x, keepdims=0), 2),
    "Snapshot": lambda graph, x: graph("Identity", x),
    "PreventGradient": lambda graph, x: graph("Identity", x),
}


def handlers() -> dict[str, tuple[Callable[..., None], list[Any]]]:
    """What `tf2onnx.convert` takes for `custom_op_handlers`."""
    return {kind: (_handler(build), []) for kind, build in _BUILDERS.items()}


def _handler(build: Callable[..., str]) -> Callable[..., None]:
    def replace(context: Any, node: Any, name: str, arguments: list[Any]) -> None:
        from tf2onnx import utils  # noqa: PLC0415

        dtype = np.dtype(utils.map_onnx_to_numpy_type(context.get_dtype(node.input[0])))
        inputs, outputs = list(node.input), list(node.output)
        shapes, dtypes = node.output_shapes, node.output_dtypes
        context.remove_node(node.name)
        made = build(Graph(context, name, dtype), *inputs)
        context.make_node(
            "Identity", [made], outputs=outputs, name=name, shapes=shapes, dtypes=dtypes
        )

    return replace
