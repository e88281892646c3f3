"""Proximal operators: the exact minimizers of a penalty beside a quadratic.

Each function here takes `x` to the tensor `t` for which `sum((t - x)**2) / 2 + strength * p(t)` is
least, where `p` is the penalty of its name. They run on every backend of Keras, in its compiled
steps too, and return exact zeros. Where two minimizers are equally good, the smaller one is taken.

All share their first arguments:

- `x`: tensor or array. Half precision is computed in float32, float64 stays where the backend has
  it.
- `strength`: number, 0 or more, or a scalar tensor: step size times the penalty's factor.
- `axis`: int that numbers groups, as in `GroupLasso`: a group is all entries that share that
  index, and takes the place of a single entry by its L2 norm. Defaults to `None`: single entries.
- `pattern`: `patterns.Block` instead of an axis: the groups are the blocks.
- `weights`: what the penalty of each entry (or group) is multiplied with: a number, or numbers
  that broadcast to `x` (to the vector of groups along `axis`; to the grid of blocks). For groups of
  mixed sizes the square root of the size is usual. Defaults to 1.

Groups that reach over several tensors, as the channels of a residual stream do, are passed as a
list of tensors and a list with an axis for each; a list comes back.

>>> stem = np.array([[3.0, 0.1]], "float32")  # makes two channels, of joint norms 5 and 0.22
>>> head = np.array([[4.0], [0.2]], "float32")  # reads them
>>> made, read = l1([stem, head], 1.0, axis=[1, 0])
>>> keras.ops.convert_to_numpy(made).round(3)
array([[2.4, 0. ]], dtype=float32)
"""

from keras_hoyer.proximal.concave import l_half, log_sum, mcp, scad, transformed_l1
from keras_hoyer.proximal.convex import l1
from keras_hoyer.proximal.ratios import hoyer, hoyer_square

__all__ = ["hoyer", "hoyer_square", "l1", "l_half", "log_sum", "mcp", "scad", "transformed_l1"]


def __dir__() -> list[str]:
    return __all__
