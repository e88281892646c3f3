"""Group penalties that are concave in the norms: large groups are shrunk less, or not at all.

They depend on the scale of the weights. `factor` is the height of a penalty, its own parameters
are in the unit of the norms; the operators of the same names are in `keras_hoyer.proximal`.
"""

from typing import Any

from keras import ops

from keras_hoyer.patterns import KernelPattern
from keras_hoyer.regularizers.base import checked_number, serializable
from keras_hoyer.regularizers.groups import GroupPenalty


@serializable
class GroupMCP(GroupPenalty):
    """Minimax concave penalty over the groups' L2 norms.

    Its slope in a norm falls from `factor * threshold` at 0 to 0 at `gamma * threshold`, and stays
    0: groups beyond that are not shrunk.

    Source: Zhang, "Nearly unbiased variable selection under minimax concave penalty" (2010); for
    groups, Huang, Breheny and Ma, "A selective review of group selection" (2012).

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.
        threshold: Float between 1e-15 and 1e15, in the unit of the norms. Defaults to 1.
        gamma: Float between 1e-15 and 1e15. Defaults to 3.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 1.0]], "float32")
    >>> round(float(GroupMCP(1.0)(kernel)), 6)  # 1.5 for the norm 5, 5/6 for the norm 1
    2.333333
    """

    def __init__(
        self,
        factor: float = 1e-4,
        axis: int | tuple[int, ...] = -1,
        pattern: KernelPattern | None = None,
        threshold: float = 1.0,
        gamma: float = 3.0,
    ) -> None:
        super().__init__(factor, axis, pattern)
        self.threshold = checked_number("threshold", threshold, 1e-15, 1e15)
        self.gamma = checked_number("gamma", gamma, 1e-15, 1e15)

    def profile(self, norms: Any) -> tuple[Any, Any]:
        """`sum(threshold * norms - norms**2 / (2 * gamma))` up to its top, and the slopes."""
        edge = self.gamma * self.threshold
        inside = norms < edge
        part = ops.where(inside, norms / edge, ops.ones_like(norms))
        slopes = self.threshold * (1 - part)
        return ops.sum(self.threshold * edge * part * (1 - part / 2)), slopes

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "threshold": self.threshold, "gamma": self.gamma}


@serializable
class GroupSCAD(GroupPenalty):
    """Smoothly clipped absolute deviation over the groups' L2 norms.

    Its slope in a norm is `factor * threshold` up to `threshold`, falls to 0 at `a * threshold`,
    and stays 0: groups beyond that are not shrunk.

    Source: Fan and Li, "Variable selection via nonconcave penalized likelihood" (2001); for groups,
    Wang, Chen and Li, "Group SCAD regression analysis" (2007).

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.
        threshold: Float between 1e-15 and 1e15, in the unit of the norms. Defaults to 1.
        a: Float between 1.001 and 1e15. Defaults to 3.7.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 1.0]], "float32")
    >>> round(float(GroupSCAD(1.0)(kernel)), 6)  # 2.35 for the norm 5, 1 for the norm 1
    3.35
    """

    def __init__(
        self,
        factor: float = 1e-4,
        axis: int | tuple[int, ...] = -1,
        pattern: KernelPattern | None = None,
        threshold: float = 1.0,
        a: float = 3.7,
    ) -> None:
        super().__init__(factor, axis, pattern)
        self.threshold = checked_number("threshold", threshold, 1e-15, 1e15)
        self.a = checked_number("a", a, 1.001, 1e15)

    def profile(self, norms: Any) -> tuple[Any, Any]:
        """`sum(threshold * norms)` less what the slope has fallen by, and the slopes."""
        width = (self.a - 1) * self.threshold
        inside = norms < self.a * self.threshold
        size = ops.where(inside, norms, self.a * self.threshold * ops.ones_like(norms))
        fallen = ops.relu(size - self.threshold) / width
        slopes = ops.where(inside, self.threshold * (1 - fallen), ops.zeros_like(norms))
        return ops.sum(self.threshold * (size - fallen * fallen * width / 2)), slopes

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "threshold": self.threshold, "a": self.a}


@serializable
class GroupTransformedL1(GroupPenalty):
    """Transformed L1 penalty over the groups' L2 norms: `sum((a + 1) norms / (a + norms))`.

    Near 0 of `a` it tends to the number of groups that are not zero, for a large `a` to
    `GroupLasso`.

    Source: Zhang and Xin, "Minimization of transformed L1 penalty" (2018); for groups, Ke, Shin,
    Lou and Ahn, "A generalized formulation for group selection via ADMM" (2024).

    Args:
        factor: Float, 0 or more. Defaults to 1e-4.
        axis: Int or tuple of ints: the axes that number groups. Defaults to -1, the output
            channels of a Dense or Conv kernel; `(-2, -1)` adds the input channels.
        pattern: `patterns.Block` instead of an axis: the groups are the blocks.
        a: Float between 1e-15 and 1e15, in the unit of the norms. Defaults to 1.

    Raises:
        ValueError: If an argument is out of its range; at the first call, if the kernel has no
            such axis or does not divide into the blocks.

    >>> kernel = np.array([[3.0, 0.0], [4.0, 1.0]], "float32")
    >>> round(float(GroupTransformedL1(1.0)(kernel)), 6)  # 10/6 for the norm 5, 1 for the norm 1
    2.666667
    """

    def __init__(
        self,
        factor: float = 1e-4,
        axis: int | tuple[int, ...] = -1,
        pattern: KernelPattern | None = None,
        a: float = 1.0,
    ) -> None:
        super().__init__(factor, axis, pattern)
        self.a = checked_number("a", a, 1e-15, 1e15)

    def profile(self, norms: Any) -> tuple[Any, Any]:
        """`sum((a + 1) norms / (a + norms))`, and its derivatives by the norms."""
        inverse = 1 / (self.a + norms)
        height = (self.a + 1) * inverse
        return ops.sum(norms * height), height * (self.a * inverse)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {**super().get_config(), "a": self.a}
