"""The runs behind RESULTS.md, by name: what each plan asks, and all that its runs depend on.

`benchmarks/mnist.py --plan NAME` makes the runs of a plan that have no line yet. A new question is
a new plan.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

Epochs = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: all that its result depends on, the machine and the versions aside.

    Attributes:
        net: `"300-100"` or `"lenet-5"`.
        protocol: `"ours"` or `"paper"`.
        method: `"dense"`, `"paper"`, `"once"`, `"threshold"`, `"gradual"`, `"blocks"`, `"budget"`,
            `"structured"` or `"channels"`.
        penalty: Name of a penalty of `keras_hoyer`, `"L1"` or `"none"`.
        factor: The penalty's factor.
        amount: How much goes: the ratio of the threshold (`paper`), the number of weights to keep
            (`once`, `threshold`, `gradual`, `blocks`), the budget of validation accuracy (`budget`)
            or the share of the multiply-adds to keep (`channels`, `structured`).
        seed: Of initial weights and order of images.
        dropout: Whether the dense model is trained with dropout.
        weight_decay: What `AdamL2` adds of the kernels, after dense training.
        epochs: Epochs of dense training, sparse training, gradual cutting, and fine-tuning.
        teacher: What is learnt after dense training: `"labels"`, or the outputs of the `"dense"`
            model.
        shifts: Whether the dense model also labels the images shifted by a pixel each way.
    """

    net: str
    protocol: str
    method: str
    penalty: str = "none"
    factor: float = 0.0
    amount: float = 0.0
    seed: int = 0
    epochs: tuple[int, int, int, int] = (30, 30, 80, 30)
    teacher: str = "dense"
    shifts: bool = True
    dropout: bool = True
    weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """Runs that answer one question.

    Attributes:
        name: What `--plan` takes.
        asks: The question.
        runs: The runs, the most telling ones first.
    """

    name: str
    asks: str
    runs: tuple[Run, ...]


# Dense, sparse, cutting, fine-tuning; LeNet-5 takes an order of magnitude longer.
EPOCHS = {"300-100": (30, 30, 80, 30), "lenet-5": (15, 15, 20, 30)}
# One cut by the paper's rule needs none for cutting, and the penalty more.
ONE_CUT_EPOCHS = {"300-100": (30, 90, 0, 30), "lenet-5": (15, 45, 0, 15)}
# Nor does it after sparse training that decays.
DECAYED_EPOCHS = {"300-100": (30, 60, 0, 20), "lenet-5": (15, 20, 0, 15)}
QUICK_EPOCHS = {"300-100": (6, 12, 16, 12), "lenet-5": (2, 3, 4, 3)}
QUICK_ONE_CUT_EPOCHS = {"300-100": (6, 36, 0, 12), "lenet-5": (2, 9, 0, 3)}
QUICK_DECAYED_EPOCHS = {"300-100": (6, 18, 0, 8), "lenet-5": (2, 5, 0, 3)}
# Shares of the multiply-adds: the paper's, and what to strive for.
SHARES = {"300-100": (0.062, 0.04), "lenet-5": (0.074, 0.029)}
KEEP = {"300-100": (4630, 3330, 2315), "lenet-5": (3500, 1400)}
ALL = (0, 1, 2)
# Trained on labels, as the paper does.
LABELS = {"teacher": "labels", "shifts": False, "dropout": False}


def _grid(
    base: Run,
    method: str,
    penalty: str,
    factors: Sequence[float],
    amounts: Sequence[float],
    seeds: Iterable[int] = (0,),
    **changes: object,
) -> Iterator[Run]:
    """A run for each seed, factor and amount."""
    for seed, factor, amount in itertools.product(seeds, factors, amounts):
        yield dataclasses.replace(
            base,
            method=method,
            penalty=penalty,
            factor=factor,
            amount=amount,
            seed=seed,
            **changes,
        )


MLP = Run("300-100", "ours", "dense", epochs=EPOCHS["300-100"])
CNN = Run("lenet-5", "ours", "dense", epochs=EPOCHS["lenet-5"])
PAPER_MLP = dataclasses.replace(MLP, protocol="paper")
PAPER_CNN = dataclasses.replace(CNN, protocol="paper")


def _tables() -> Iterator[Run]:
    yield MLP
    yield from _grid(MLP, "gradual", "HoyerSquare", [1e-4], KEEP["300-100"], ALL)
    yield from _grid(MLP, "budget", "HoyerSquare", [1e-4], [0.002], ALL)
    for penalty in ("GroupHoyerSquare", "GroupLasso"):
        yield from _grid(
            MLP, "structured", penalty, [3e-4], SHARES["300-100"], ALL, weight_decay=2e-4
        )
        yield from _grid(
            CNN, "channels", penalty, [3e-4], SHARES["lenet-5"], ALL, weight_decay=2e-4
        )
    yield from _grid(CNN, "gradual", "HoyerSquare", [1e-4], [3500], ALL)
    yield from _grid(CNN, "gradual", "HoyerSquare", [1e-4], [1400])
    yield from _grid(CNN, "gradual", "L1", [2e-5], KEEP["lenet-5"])


def _paper() -> Iterator[Run]:
    yield from _grid(PAPER_MLP, "gradual", "HoyerSquare", [1e-4], KEEP["300-100"][:2])
    yield from _grid(PAPER_MLP, "structured", "GroupHoyerSquare", [3e-4], [0.062])
    yield from _grid(PAPER_CNN, "gradual", "HoyerSquare", [1e-4], [3500])


def _penalties() -> Iterator[Run]:
    amounts = (9260, *KEEP["300-100"])
    best = {"HoyerSquare": 1e-4, "L1": 5e-5, "TransformedL1": 5e-5}
    decayed = {"epochs": DECAYED_EPOCHS["300-100"]}
    for penalty, factor in best.items():
        if penalty != "HoyerSquare":  # whose runs are in the tables
            yield from _grid(MLP, "gradual", penalty, [factor], KEEP["300-100"], ALL)
        yield from _grid(MLP, "once", penalty, [factor], amounts, ALL, **decayed)
        yield from _grid(MLP, "threshold", penalty, [factor], amounts, **decayed)
    yield from _grid(MLP, "once", "HoyerSquare", [5e-4], KEEP["300-100"], ALL, **decayed)
    yield from _grid(MLP, "once", "L1", [1e-4], KEEP["300-100"], ALL, **decayed)
    for penalty, factor in (("HoyerSquare", 1e-4), ("L1", 2e-5)):
        epochs = DECAYED_EPOCHS["lenet-5"]
        yield from _grid(CNN, "once", penalty, [factor], KEEP["lenet-5"], epochs=epochs)


def _by_hand() -> Iterator[Run]:
    yield from _grid(MLP, "gradual", "HoyerSquare", [5e-5, 2e-4, 5e-4], KEEP["300-100"], ALL)
    yield from _grid(MLP, "gradual", "HoyerSquare", [1e-3], [3330, 2315])
    yield from _grid(MLP, "gradual", "L1", [2e-5], [4630])
    yield from _grid(MLP, "budget", "L1", [5e-5], [0.002], ALL)
    yield from _grid(MLP, "budget", "L1", [2e-5], [0.002])


def _rule() -> Iterator[Run]:
    mlp = {"epochs": ONE_CUT_EPOCHS["300-100"], **LABELS}
    cnn = {"epochs": ONE_CUT_EPOCHS["lenet-5"], **LABELS}
    ratios = (0.03, 0.1, 0.3)
    yield from _grid(MLP, "paper", "HoyerSquare", [1e-4, 2e-4, 5e-4, 1e-3], ratios, **mlp)
    yield from _grid(MLP, "paper", "HoyerSquare", [1e-4], [0.1], (1, 2), **mlp)
    yield from _grid(MLP, "paper", "HoyerSquare", [5e-5], [0.1, 0.15], **mlp)
    yield from _grid(MLP, "paper", "L1", [2e-5], ratios, **mlp)
    yield from _grid(MLP, "paper", "L1", [5e-5, 1e-4, 2e-4], (*ratios, 0.5, 0.8, 1.2), **mlp)
    yield from _grid(MLP, "paper", "L1", [1e-4], [0.8, 1.2], (1, 2), **mlp)
    for penalty, factor, ratio in (
        ("Hoyer", 4e-3, 0.1),
        ("TransformedL1", 5e-5, 0.8),
        ("none", 0.0, 2.0),
    ):
        yield from _grid(MLP, "paper", penalty, [factor], [ratio], **mlp)
    yield from _grid(CNN, "paper", "HoyerSquare", [1e-4], [0.05, 0.1, 0.2], **cnn)
    yield from _grid(CNN, "paper", "L1", [5e-5], [0.4, 0.8, 1.2], **cnn)


def _weight_decay() -> Iterator[Run]:
    rule = {"epochs": ONE_CUT_EPOCHS["300-100"], "weight_decay": 1e-4, **LABELS}
    yield from _grid(MLP, "paper", "HoyerSquare", [1e-4, 2e-4], [0.1], **rule)
    yield from _grid(MLP, "paper", "L1", [1e-4], [0.8], **rule)
    yield from _grid(MLP, "structured", "GroupHoyerSquare", [3e-4], [0.062], ALL)
    yield from _grid(MLP, "structured", "GroupHoyerSquare", [3e-4], [0.04])
    yield from _grid(MLP, "structured", "GroupLasso", [3e-4], [0.062])


def _quick() -> Iterator[Run]:
    for base in (MLP, CNN):
        net = base.net
        base = dataclasses.replace(base, epochs=QUICK_EPOCHS[net])
        yield base
        for penalty, factor in (("HoyerSquare", 1e-4), ("L1", 5e-5)):
            yield from _grid(base, "gradual", penalty, [factor], KEEP[net][:1])
        epochs = QUICK_DECAYED_EPOCHS[net]
        for method in ("once", "threshold"):
            yield from _grid(base, method, "HoyerSquare", [1e-4], KEEP[net][:1], epochs=epochs)
        epochs = QUICK_ONE_CUT_EPOCHS[net]
        yield from _grid(base, "paper", "HoyerSquare", [1e-4], [0.1], epochs=epochs, **LABELS)
        yield from _grid(base, "budget", "HoyerSquare", [1e-4], [0.002])
        method = "channels" if net == "lenet-5" else "structured"
        options = {"weight_decay": 2e-4}
        yield from _grid(base, method, "GroupHoyerSquare", [3e-4], SHARES[net][:1], **options)


PLANS = {
    plan.name: plan
    for plan in (
        Plan("tables", "the rows of the README and of the tables", tuple(_tables())),
        Plan("paper", "the same where the best test epoch counts", tuple(_paper())),
        Plan("penalties", "which penalty leaves the best weights", tuple(_penalties())),
        Plan("by-hand", "what a sweep finds beside the automatic choice", tuple(_by_hand())),
        Plan("rule", "the paper's method, with its rule for the cut", tuple(_rule())),
        Plan("weight-decay", "what weight decay adds or takes", tuple(_weight_decay())),
        Plan("quick", "whether all of it runs, in minutes", tuple(_quick())),
    )
}


def plan_of(run: Run) -> str:
    """The plan that a run belongs to.

    Raises:
        LookupError: If there is none.
    """
    for plan in PLANS.values():
        if run in plan.runs:
            return plan.name
    raise LookupError(f"no plan has {run}")
