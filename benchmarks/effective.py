"""How many times the effective number must a cut keep? Before any fine-tuning.

    KERAS_BACKEND=jax python benchmarks/effective.py --plan digits
    KERAS_BACKEND=jax python benchmarks/effective.py --plan mnist --data mnist.npz

A net is trained once with a penalty on its kernels, or without one, by Adam with a learning rate
that decays to 0, and is then cut by `criteria.EffectiveNumber` at several ratios, each time anew:
its weights, or with a group penalty its coupled channels. Accuracies are of images that are held
out. A line is appended to the results for each net that was trained; those that differ in factor
and seed alone are trained side by side.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
from kit.many import Member, set_state, state_of, train_many
from kit.plan_loop import make_together, plan_options
from kit.small_nets import NETS, load
from kit.training import Data, accuracy

import keras_hoyer as kh


@dataclasses.dataclass(frozen=True)
class Run:
    """One net, all that its result depends on, the machine and the versions aside.

    Attributes:
        net: Name of the net.
        penalty: Name of a penalty of `keras_hoyer`, or "none".
        factor: The penalty's factor.
        seed: Of initial weights and order of images.
        plan: The plan that it belongs to.
    """

    net: str
    penalty: str
    factor: float
    seed: int
    plan: str


RATIOS = (1.0, 2.0, 3.0, 4.0, 6.0)
FACTORS = {
    "HoyerSquare": (3e-5, 1e-4, 3e-4, 1e-3),
    "none": (0.0,),
    "L1": (1e-5, 3e-5, 1e-4, 3e-4),
    "GroupHoyerSquare": (1e-3, 3e-3, 1e-2, 3e-2),
    "GroupLasso": (1e-4, 3e-4, 1e-3, 3e-3),
}
COUPLED = ("GroupHoyerSquare", "GroupLasso")
# Convolutions take long where many nets are trained side by side.
QUICK = tuple(name for name, net in NETS.items() if net.data == "digits" and name != "residual")


def plan(
    name: str, nets: Sequence[str], penalties: Sequence[str], seeds: Sequence[int] = (0, 1, 2)
) -> Iterator[Run]:
    """Each penalty at four factors."""
    for penalty, net, seed in itertools.product(penalties, nets, seeds):
        for factor in FACTORS[penalty]:
            yield Run(net, penalty, factor, seed, name)


OTHERS = ("none", "L1", "GroupHoyerSquare", "GroupLasso")
PLANS = {
    "digits": lambda: plan("digits", QUICK, ("HoyerSquare",)),
    "digits_others": lambda: plan("digits_others", QUICK, OTHERS, (0,)),
    "mnist": lambda: plan("mnist", ("lenet-300-100",), tuple(FACTORS)),
    "convolutions": lambda: plan("convolutions", ("residual", "lenet-5"), tuple(FACTORS), (0, 1)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the runs of a plan that have no line yet."""
    options = plan_options(__doc__, PLANS, "effective.jsonl", arguments)
    warnings.filterwarnings("ignore", "No cut can reach")
    make_together(
        PLANS[options.plan](),
        options.out,
        lambda runs: run(runs, options.data),
        lambda todo: (todo.net, todo.penalty),
    )


def run(runs: Sequence[Run], mnist: Path | None) -> list[dict[str, Any]]:
    """Trains nets that differ in factor and seed; what cuts of each cost."""
    net = NETS[runs[0].net]
    data = load(net, mnist)
    model = net.make()
    coupled = runs[0].penalty in COUPLED
    members = []
    for todo in runs:
        keras.utils.set_random_seed(todo.seed)
        members.append(Member(state_of(net.make()), todo.factor, 2e-3, todo.seed))
    if runs[0].penalty != "none":
        penalty = getattr(kh, runs[0].penalty)(1.0)
        kh.regularize(model, penalty, groups="coupled" if coupled else None)
    ends = train_many(model, members, *data[:2], net.epochs, net.batch)
    kh.strip(model)
    results = []
    for end in ends:
        set_state(model, end)
        results.append(cuts_of(model, data, coupled))
    return results


def cuts_of(model: keras.Model, data: Data, coupled: bool) -> dict[str, Any]:
    """Accuracy before the cut, and right after it for each ratio and scope."""
    images = data[2:]
    weights, before = model.get_weights(), accuracy(model, *images)
    pattern = kh.patterns.Channel() if coupled else kh.patterns.Unstructured()
    total = kh.report(model).total
    cuts = []
    for scope, ratio in itertools.product(("global", "layer")[: 1 + coupled], RATIOS):
        model.set_weights(weights)
        left = kh.prune(model, kh.criteria.EffectiveNumber(ratio, scope), pattern).nonzero
        after = accuracy(model, *images)
        kh.strip(model)
        cuts.append({"scope": scope, "ratio": ratio, "left": left / total, "after_cut": after})
    return {"total": total, "before": before, "cuts": cuts}


if __name__ == "__main__":
    main()
