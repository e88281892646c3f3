"""What a report holds, and the ways to look at it."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from keras_hoyer._extras import check_package
from keras_hoyer.criteria import Measured
from keras_hoyer.reports import table
from keras_hoyer.reports.account import GroupReport
from keras_hoyer.reports.activations import ActivationReport
from keras_hoyer.reports.histograms import Histogram


@dataclass(frozen=True)
class KernelReport:
    """One kernel.

    Attributes:
        name: Layer and weight, such as `"dense/kernel"`.
        shape: Shape of the kernel.
        total: Number of weights.
        nonzero: Number of weights that are not zero.
        sparsity: Share of the weights that is zero.
        held: Number of zeros that a mask holds, through all training to come.
        overwritten: Number of weights that a mask holds at zero and that are not zero, since they
            were set anew: the next step of training makes them zero.
        hoyer: Normalised Hoyer sparsity, see `measures.hoyer_sparsity`.
        effective: Effective number of nonzero weights, see `measures.effective_count`.
        channels: Number of output channels.
        zero_channels: Number of output channels whose weights are all zero.
        flops: Multiply-adds with the kernel for one example; `None` if the model's graph cannot
            be seen, or the kernel is in a layer without a rule that does not say what it does.
        flops_left: Those without the input and output channels whose weights are all zero, which
            are what `shrink` can save.
        fixed: Why no channel of the kernel can be removed, such as "fixed by LayerNormalization
            'norm'"; `None` if some can, or the graph cannot be seen.
        size_left: Number of weights without the channels whose weights are all zero.
        threshold: The trimming threshold, see `measures.trimming_threshold`.
        histogram: How large the weights are that are not zero.
        outputs_fixed: Why no channel that the kernel makes can be removed, though some of those
            that it reads may; `None` if some can, or the graph cannot be seen.
    """

    name: str
    shape: tuple[int, ...]
    total: int
    nonzero: int
    sparsity: float
    held: int
    overwritten: int
    hoyer: float
    effective: float
    channels: int
    zero_channels: int
    flops: int | None
    flops_left: int | None
    fixed: str | None = None
    size_left: int = 0
    threshold: float = 0.0
    histogram: Histogram = field(default_factory=Histogram)
    outputs_fixed: str | None = None


@dataclass(frozen=True, repr=False)
class Report:
    """What is left of a model's kernels, shown as a table; `to_dict()` gives JSON values.

    Attributes:
        total: Number of weights in the kernels; biases and normalisation do not count.
        nonzero: Number of weights that are not zero.
        sparsity: Share of the weights that is zero.
        held: Number of zeros that masks hold, through all training to come.
        overwritten: Number of weights that masks hold at zero and that are not zero now.
        layers: A `KernelReport` for each kernel.
        parameters: Number of all parameters of the model, whatever layers were asked for.
        flops: Multiply-adds for one example, as `count_flops` counts them; with `layers`, those
            with their kernels and within them. `None` if the model's graph cannot be seen.
        flops_left: Those without the channels whose weights are all zero.
        at_least: What the multiply-adds leave out, in words; empty if they are complete.
        effective: Effective number of nonzero weights of all kernels together, by which
            `criteria.EffectiveNumber` cuts them.
        groups: A `GroupReport` for each set of channels that live and die together; none if the
            model's graph cannot be seen.
        name: Name of the model.
        measured: What the cut measured that gave this report, if it went by files, as
            `criteria.TargetLatency` does; else `None`.
        activations: With data, an `ActivationReport` for each layer with an activation function.
    """

    total: int
    nonzero: int
    sparsity: float
    held: int
    overwritten: int
    layers: tuple[KernelReport, ...]
    parameters: int
    flops: int | None
    flops_left: int | None
    at_least: str = ""
    effective: float = 0.0
    groups: tuple[GroupReport, ...] = ()
    name: str = ""
    measured: Measured | None = None
    activations: tuple[ActivationReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dictionary of JSON values."""
        return asdict(self)

    def plot(self) -> Any:
        """Draws how large the weights are, how many are zero, and what `shrink` would save.

        Needs matplotlib: `pip install keras-hoyer[plot]`.

        Returns:
            A `matplotlib.figure.Figure` with a row for each kernel: a histogram of its weights'
            magnitudes with the trimming threshold, its share of zeros, and its multiply-adds (its
            weights, if the model's graph cannot be seen) with those that are left without zero
            channels. A notebook shows it; `.savefig("report.png")` writes it.

        Raises:
            ImportError: If matplotlib is not installed.

        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> [axes.get_title("left") for axes in keras_hoyer.report(model).plot().axes]
        ['size of the weights', 'zeros', 'multiply-adds']
        """
        check_package("matplotlib", "plot", "Report.plot")
        from keras_hoyer.reports import drawing  # noqa: PLC0415  (matplotlib)

        return drawing.overview(self)

    def to_html(self, filepath: str | os.PathLike[str]) -> Path:
        """Writes a page with all that the report holds: one file that asks for nothing else.

        It has the table, whose columns can be sorted, the pictures of `plot`, and which layers'
        channels hang together and why a layer is fixed; light or dark as the reader's system is.
        Needs matplotlib: `pip install keras-hoyer[plot]`.

        Args:
            filepath: Where it goes, such as `"report.html"`; an older file is replaced.

        Returns:
            The path of the file.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If no file can be written there.

        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = keras_hoyer.report(model).to_html(f"{folder}/report.html").read_text()
        >>> page.count("<svg")
        4
        """
        check_package("matplotlib", "plot", "Report.to_html")
        from keras_hoyer.reports import page  # noqa: PLC0415  (matplotlib)

        return page.write(self, filepath)

    def __repr__(self) -> str:
        return (
            f"Report(total={self.total}, nonzero={self.nonzero}, sparsity={self.sparsity:.4}, "
            f"kernels: {len(self.layers)})"
        )

    def __str__(self) -> str:
        return table.as_text(self)

    def _repr_html_(self) -> str:
        return table.as_html(self)
