"""The methods of `benchmarks/mnist.py`: what each does, and how the tables describe it.

A method is a value. A new one is a new entry of `METHODS`, and runs of it in `plans.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from kit.nets import KERNELS, MLP, WIDTHS, flops, kernels_of, live_widths

import keras_hoyer as kh

if TYPE_CHECKING:
    from mnist import Pipeline

BLOCK = kh.patterns.Block((4, 1))
KEEP_ZEROS = kh.criteria.Threshold(1e-30)  # far below any weight
AT_ONCE = kh.schedules.OneShot(0)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to a sparse net.

    Attributes:
        name: What `Run.method` says.
        does: What it does, for `--help`.
        row: How a table describes a run of it, with the run's fields to be filled in.
        cut: Cuts the pipeline's model, which was trained with the penalty, and fine-tunes it;
            returns the watched accuracy of each epoch of fine-tuning. None if nothing is cut.
        title: Of its panel among the curves; `""` for none.
        decays: Whether the learning rate of sparse training decays to 0.
        groups: What group penalties take for a group; None for penalties of single weights.
        coupled: Whether the penalty is over the channels that are removed together.
        structured: Whether it has a place among the tables by multiply-adds.
    """

    name: str
    does: str
    row: str
    cut: Callable[["Pipeline"], list[float]] | None = None
    title: str = ""
    decays: bool = False
    groups: dict[str, Any] | None = None
    coupled: bool = False
    structured: bool = False

    def describe(self, run: dict) -> str:
        """What a run of it did, in words."""
        return self.row.format(**run)


def cut_at_once(
    pipeline: "Pipeline",
    criterion: kh.criteria.Criterion,
    rate: float = 1e-3,
    decay: bool = True,
) -> list[float]:
    """One cut, then fine-tuning."""
    return pipeline.tune(rate, decay, callbacks=[kh.callbacks.Pruning(criterion, AT_ONCE)])


def cut_by_deviation(pipeline: "Pipeline") -> list[float]:
    """One cut by the paper's rule, at the share that leaves as many weights as asked for."""
    ratio = std_ratio(pipeline.model, int(pipeline.run.amount))
    return cut_at_once(pipeline, kh.criteria.StdThreshold(ratio))


def cut_little_by_little(pipeline: "Pipeline", pattern: kh.patterns.Pattern) -> list[float]:
    """Cuts along a curve, then fine-tuning."""
    epochs = pipeline.run.epochs[2]
    curve = kh.schedules.Polynomial(0, epochs - -(-epochs // 20), frequency=-(-epochs // 10))
    cut = kh.callbacks.Pruning(target(pipeline), curve, pattern)
    pipeline.fit(epochs, 1e-3, decay=False, callbacks=[cut], validation_data=None)
    pipeline.cut_epochs = epochs
    return pipeline.tune()


def cut_within_budget(pipeline: "Pipeline") -> list[float]:
    """Cuts as long as the accuracy holds, then fine-tuning."""
    epochs = pipeline.run.epochs[2]
    cut = kh.callbacks.BudgetPruning(pipeline.run.amount, begin=min(5, epochs // 3))
    pipeline.cut_epochs = len(pipeline.fit(epochs, 1e-3, decay=False, callbacks=[cut]).epoch)
    return pipeline.tune()


def cut_to_flops(pipeline: "Pipeline", cut_to: Callable[["Pipeline", float], None]) -> list[float]:
    """Cuts to a share of the multiply-adds in steps with training between, then fine-tuning."""
    run = pipeline.run
    steps = min(10, run.epochs[2])
    for step in range(1, steps + 1):
        cut_to(pipeline, 1 - (1 - run.amount) * (1 - (1 - step / steps) ** 3))
        pipeline.fit(run.epochs[2] // steps, 1e-3, decay=False, validation_data=None)
    pipeline.cut_epochs = run.epochs[2] // steps * steps
    return cut_at_once(pipeline, KEEP_ZEROS)  # takes the penalty off


def target(pipeline: "Pipeline") -> kh.criteria.Criterion:
    """The number of weights that the run keeps."""
    return kh.criteria.TargetSparsity(1 - pipeline.run.amount / KERNELS[pipeline.run.net])


def shrink_to(pipeline: "Pipeline", share: float) -> None:
    """Removes channels until this share of the net's multiply-adds is left."""
    net = pipeline.run.net
    relative = share * flops(net, WIDTHS[net]) / flops(net, live_widths(pipeline.model))
    if relative < 1:
        criterion = kh.criteria.TargetFlops(relative, scope="layer")
        kh.prune(pipeline.model, criterion, kh.patterns.Channel())
        pipeline.model = kh.shrink(kh.strip(pipeline.model))
        pipeline.penalize()


def zero_to(pipeline: "Pipeline", share: float) -> None:
    """Zeroes input features and units until this share of the multiply-adds is left."""
    zero_units(pipeline.model, share)
    kh.prune(pipeline.model, KEEP_ZEROS)


def std_ratio(model: keras.Model, keep: int) -> float:
    """The share of each kernel's standard deviation above which so many weights are."""
    kernels = [keras.ops.convert_to_numpy(kernel) for kernel in kernels_of(model)]
    relative = np.concatenate([np.abs(kernel / kernel.std()).ravel() for kernel in kernels])
    return float(np.sort(relative)[-keep - 1 : -keep + 1].mean())


def zero_units(model: keras.Model, share: float) -> None:
    """Sets input features and units of LeNet-300-100 to zero until so few multiply-adds are left.

    The same share of each layer goes. A unit's score is the norm of the weights before it times
    that of the weights after it.
    """
    kernels = kernels_of(model)
    values = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    scores = [np.linalg.norm(value, axis=1) for value in values]
    for score, before in zip(scores[1:], values, strict=False):
        score *= np.linalg.norm(before, axis=0)
    sizes = [score.size for score in scores]
    target = share * flops(MLP, sizes)
    counts = (
        [int(np.ceil(part * n)) for n in sizes] for part in np.linspace(1, 0, 2000, endpoint=False)
    )
    kept = next(widths for widths in counts if flops(MLP, widths) <= target)
    alive = [np.zeros(n, bool) for n in sizes] + [np.ones(10, bool)]
    for score, count, stay in zip(scores, kept, alive, strict=False):
        stay[np.argsort(score)[-count:]] = True
    for kernel, value, rows, columns in zip(kernels, values, alive, alive[1:], strict=False):
        kernel.assign(value * rows[:, np.newaxis] * columns)


METHODS = {
    method.name: method
    for method in (
        Method("dense", "Trains, and cuts nothing.", "dense"),
        Method(
            "budget",
            "As `gradual`, with `callbacks.BudgetPruning`, which finds out itself how far it can "
            "go.",
            "`BudgetPruning(budget={amount:g})`",
            cut_within_budget,
        ),
        Method(
            "gradual",
            "The smallest weights of all kernels go little by little while the penalty is on; then "
            "fine-tuning with cosine decay. All of it learns the dense model's softened outputs, "
            "for the images and for copies shifted by a pixel.",
            "cut gradually",
            lambda pipeline: cut_little_by_little(pipeline, kh.patterns.Unstructured()),
            title="cut gradually, distilled",
        ),
        Method(
            "once",
            "The learning rate of sparse training decays to 0 before the one cut, which takes the "
            "smallest weights of all kernels, and fine-tuning learns the dense model's outputs as "
            "`gradual` does.",
            "cut once, all kernels ranked together",
            lambda pipeline: cut_at_once(pipeline, target(pipeline)),
            title="cut once, all kernels ranked together, distilled",
            decays=True,
        ),
        Method(
            "threshold",
            "As `once`, but cut by the paper's rule.",
            "cut once, at the same share of each kernel's std",
            cut_by_deviation,
            title="cut once by the paper's rule, distilled",
            decays=True,
        ),
        Method(
            "paper",
            "One cut below a share of each kernel's standard deviation, fine-tuning at 1e-4.",
            "cut once below {amount:g} std, fine-tuned on labels",
            lambda pipeline: cut_at_once(
                pipeline, kh.criteria.StdThreshold(pipeline.run.amount), 1e-4, decay=False
            ),
            title="the paper's method: cut once by its rule, labels",
        ),
        Method(
            "blocks",
            "As `gradual`, in blocks of four inputs of one unit; `benchmarks/blocks.py` runs it.",
            "blocks of four inputs cut gradually",
            lambda pipeline: cut_little_by_little(pipeline, BLOCK),
            groups={"pattern": BLOCK},
        ),
        Method(
            "channels",
            "For LeNet-5: cuts the same share of the channels of each layer, little by little "
            "until a share of the multiply-adds is left, with weight decay and with the penalty "
            "over what is removed together, and shrinks the model after each cut, so that it "
            "trains faster and faster.",
            "channels cut to {amount:.1%} of the FLOPs, shrunk",
            lambda pipeline: cut_to_flops(pipeline, shrink_to),
            groups={},
            coupled=True,
            structured=True,
        ),
        Method(
            "structured",
            "For LeNet-300-100: as `channels`, with input features as well, as the paper does, by "
            "this script's own rule, since `patterns.Channel` cuts no inputs; the zeros stay in "
            "the model.",
            "inputs and units cut to {amount:.1%} of the FLOPs",
            lambda pipeline: cut_to_flops(pipeline, zero_to),
            groups={"axis": (-2, -1)},
            structured=True,
        ),
    )
}
