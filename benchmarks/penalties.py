"""Which penalty to take, and does one factor suit all nets? One cut of small nets, fine-tuned.

    KERAS_BACKEND=jax python benchmarks/penalties.py --plan one_factor --data mnist.npz
    KERAS_BACKEND=jax python benchmarks/penalties.py --plan penalties_table --data mnist.npz

A net is trained with a penalty on its kernels, is cut once, over all kernels, to a share of its
weights, and is trained on without the penalty, zeros kept; both times by Adam with a learning rate
that decays to 0. Accuracies are of images that are held out. Nets that differ in their factor, in
the scale of their initial kernels, in learning rate and seed alone are trained side by side;
`factor="auto"` needs `fit`. A line is appended to the results for each cut.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
from kit.many import Member, State, set_state, state_of, train_many
from kit.plan_loop import make_together, plan_options
from kit.small_nets import NETS, SmallNet, load
from kit.training import Data, accuracy, train

import keras_hoyer as kh


@dataclasses.dataclass(frozen=True)
class Cut:
    """One cut: all that its result depends on, the machine and the versions aside.

    Attributes:
        net: Name of the net.
        penalty: Name of a penalty of `keras_hoyer`.
        factor: The penalty's factor, a number or "auto".
        scale: What the initial kernels are multiplied with.
        rate: Learning rate at the beginning, of both trainings.
        keep: Share of the weights that stays.
        seed: Of initial weights and order of images.
        plan: The plan that it belongs to.
    """

    net: str
    penalty: str
    factor: float | str
    scale: float
    rate: float
    keep: float
    seed: int
    plan: str


# Of sparse training, the quick nets first; of fine-tuning half as many.
EPOCHS = {
    "mlp": 40,
    "residual_mlp": 24,
    "cnn": 12,
    "lstm": 20,
    "transformer": 16,
    "lenet-300-100": 6,
}
KEPT = 0.1
# Half a decade apart; 1e-4 is the default of all penalties.
FACTORS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


def plan_one_factor() -> Iterator[Cut]:
    """The default against the best factor: six nets, three initial scales, two learning rates."""
    for net, penalty in itertools.product(EPOCHS, ("HoyerSquare", "L1")):
        for scale, rate, factor in itertools.product((0.5, 1.0, 2.0), (1e-3, 4e-3), FACTORS):
            yield Cut(net, penalty, factor, scale, rate, KEPT, 0, "one_factor")


def plan_penalties_table() -> Iterator[Cut]:
    """The automatic factor of Hoyer-Square against each penalty's best of six."""
    fixed = [(name, FACTORS) for name in ("HoyerSquare", "L1", "TransformedL1")]
    asked = [*fixed, ("HoyerSquare", ("auto",))]
    for net, (penalty, factors) in itertools.product(EPOCHS, asked):
        for seed, factor in itertools.product((0, 1, 2), factors):
            yield Cut(net, penalty, factor, 1.0, 2e-3, KEPT, seed, "penalties_table")


PLANS = {"one_factor": plan_one_factor, "penalties_table": plan_penalties_table}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the cuts of a plan that have no line yet."""
    options = plan_options(__doc__, PLANS, "penalties.jsonl", arguments)
    make_together(
        PLANS[options.plan](),
        options.out,
        lambda cuts: run(cuts, options.data),
        lambda cut: (cut.net, cut.penalty, cut.factor == "auto"),
    )


def run(cuts: Sequence[Cut], mnist: Path | None) -> list[dict[str, Any]]:
    """Trains, cuts and fine-tunes nets that differ in numbers alone."""
    net = NETS[cuts[0].net]
    data = load(net, mnist)
    sparse = automatic(cuts, net, data) if cuts[0].factor == "auto" else fixed(cuts, net, data)
    model = net.make()
    results, tuned = [], []
    for cut, state in zip(cuts, sparse, strict=True):
        set_state(model, state)
        before, effective = accuracy(model, *data[2:]), kh.report(model).effective
        kh.prune(model, kh.criteria.TargetSparsity(1 - cut.keep))
        after = accuracy(model, *data[2:])
        kh.strip(model)
        results.append({"effective": effective, "before": before, "after_cut": after})
        tuned.append(Member(state_of(model), 0.0, cut.rate, cut.seed))
    ends = train_many(model, tuned, *data[:2], EPOCHS[cuts[0].net] // 2, net.batch, hold_zeros=True)
    for result, end in zip(results, ends, strict=True):
        set_state(model, end)
        result["validation"] = accuracy(model, *data[2:])
    return results


def fixed(cuts: Sequence[Cut], net: SmallNet, data: Data) -> list[State]:
    """Where sparse training ends for each cut; those of different amounts share it."""
    members = {}
    for cut in cuts:
        start = started(net, cut)
        members[_training_of(cut)] = Member(state_of(start), cut.factor, cut.rate, cut.seed)
    model = net.make()
    kh.regularize(model, getattr(kh, cuts[0].penalty)(1.0))
    ends = train_many(model, list(members.values()), *data[:2], EPOCHS[cuts[0].net], net.batch)
    states = dict(zip(members, ends, strict=True))
    return [states[_training_of(cut)] for cut in cuts]


def automatic(cuts: Sequence[Cut], net: SmallNet, data: Data) -> list[State]:
    """The same with a factor that `callbacks.Pruning` sets; the cut is made later, by hand."""
    states = []
    for cut in cuts:
        model = started(net, cut)
        kh.regularize(model, getattr(kh, cut.penalty)("auto"))
        target = kh.criteria.TargetSparsity(1 - cut.keep)
        schedule = kh.schedules.OneShot(EPOCHS[cut.net])
        steer = kh.callbacks.Pruning(target, schedule, keep_penalty=True)
        train(model, *data[:2], EPOCHS[cut.net], [steer], cut.rate, net.batch)
        states.append(state_of(model))
    return states


def started(net: SmallNet, cut: Cut) -> keras.Model:
    """A net with the initial weights of a cut."""
    keras.utils.set_random_seed(cut.seed)
    model = net.make()
    for variable in model.trainable_variables:
        if variable.ndim > 1:
            variable.assign(cut.scale * variable)
    return model


def _training_of(cut: Cut) -> tuple[object, ...]:
    return cut.factor, cut.scale, cut.rate, cut.seed


if __name__ == "__main__":
    main()
