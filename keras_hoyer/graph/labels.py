"""Labels of channels, and which of them live and die together."""

import numpy as np

from keras_hoyer.graph.axes import FROZEN


class Labels:
    """Numbers, and the sets into which they are joined."""

    def __init__(self) -> None:
        self._parents = [FROZEN]

    def new(self, count: int) -> np.ndarray:
        """So many labels that are in no set yet."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, label: int) -> int:
        """The smallest label of the set of this one."""
        parents = self._parents
        root = label
        while parents[root] != root:
            root = parents[root]
        while parents[label] != root:
            parents[label], label = root, parents[label]
        return root

    def union(self, left: np.ndarray, right: np.ndarray) -> None:
        """Joins the sets of labels at the same places."""
        for one, two in zip(left.tolist(), right.tolist(), strict=True):
            # The smaller label wins, so that frozen stays frozen.
            low, high = sorted((self.find(one), self.find(two)))
            self._parents[high] = low

    def roots(self) -> np.ndarray:
        """The smallest label of the set of each label."""
        return np.array([self.find(label) for label in range(len(self._parents))])
