"""Labels of channels: which are joined, which are fixed, and by what."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_hoyer.graph.axes import FROZEN


class Labels:
    """A union-find over the labels of channels, some of which are fixed.

    What is joined to something fixed is fixed by the same. The label `FROZEN` stands for channels
    that were never free; what is joined to it is fixed by whatever joins them.
    """

    def __init__(self) -> None:
        self._parents = [FROZEN]
        self._fixed: dict[int, Any] = {FROZEN: None}  # root -> what fixes it

    def new(self, size: int) -> np.ndarray:
        """So many new labels, each by itself."""
        start = len(self._parents)
        self._parents.extend(range(start, start + size))
        return np.arange(start, start + size)

    def find(self, label: int) -> int:
        """The root of the labels that a label is joined with."""
        parents = self._parents
        root = label
        while parents[root] != root:
            root = parents[root]
        while parents[label] != root:
            parents[label], label = root, parents[label]
        return root

    def join(self, left: np.ndarray, right: np.ndarray, by: Any) -> None:
        """Joins labels one by one; `by` is what fixes those that meet `FROZEN` ones."""
        for one, two in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self.find(one), self.find(two)))
            if low == high:
                continue
            if low == FROZEN:
                self._fixed.setdefault(high, by)
                continue
            self._parents[high] = low
            if high in self._fixed:
                self._fixed.setdefault(low, self._fixed.pop(high))

    def fix(self, labels: np.ndarray, by: Any) -> None:
        """Fixes labels; the first who does so is remembered."""
        for label in labels.tolist():
            self._fixed.setdefault(self.find(label), by)

    def any_free(self, labels: np.ndarray) -> bool:
        """Whether one of the labels is not fixed."""
        return any(self.find(label) not in self._fixed for label in labels.tolist())

    def reasons(self, labels: np.ndarray) -> Iterable[Any]:
        """What fixes those labels that are fixed, each once; None if they never were free."""
        roots = dict.fromkeys(self.find(label) for label in labels.tolist())
        return dict.fromkeys(self._fixed[root] for root in roots if root in self._fixed)

    def fixed_by(self) -> Iterable[Any]:
        """All that fixes labels."""
        return self._fixed.values()

    def roots(self) -> np.ndarray:
        """The root of every label, `FROZEN` for those that are fixed."""
        roots = np.array([self.find(label) for label in range(len(self._parents))])
        fixed = np.zeros(len(roots), bool)
        fixed[list(self._fixed)] = True
        return np.where(fixed[roots], FROZEN, roots)
