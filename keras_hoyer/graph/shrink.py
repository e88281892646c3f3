"""A smaller model with the same outputs: channels that are constant, or that nobody reads, go."""

import dataclasses
from collections.abc import Iterable
from typing import Any, overload

import keras
import numpy as np

from keras_hoyer._checks import check_choice, warn
from keras_hoyer._progress import step
from keras_hoyer.graph.axes import FROZEN, Read
from keras_hoyer.graph.building import Builder
from keras_hoyer.graph.checking import check_outputs
from keras_hoyer.graph.errors import ShrinkError
from keras_hoyer.graph.summary import summary_of
from keras_hoyer.graph.transfer import Transfer
from keras_hoyer.graph.tries import Tries
from keras_hoyer.graph.unreached import Unreached
from keras_hoyer.graph.walk import ChannelGraph, Fixed
from keras_hoyer.plain import find_adapted
from keras_hoyer.weights import Weight, find_weights


def shrink(
    model: keras.Model, check: bool = True, sample: Any = None, verbose: int = 0
) -> keras.Model:
    """Builds a smaller model that gives the same outputs.

    A channel goes, with everything that lives and dies with it, if at each place where it is read
    it is a constant whose effect a bias can take up (zero has none), or nothing that stays depends
    on it. At least one channel of each layer stays.

    All else is kept: weights, names, dtype policies, trainable flags, the masks of what is left,
    compile settings, and what layers hold outside weights and config: adapted statistics,
    vocabularies, states of recurrent layers and random generators, attributes set after
    construction. Layers that share a variable, as a tied head and its embedding, keep their widths
    and go on sharing it. The penalties of keras_hoyer are left behind, so that the result loads
    without keras_hoyer where no mask is left to hold. The new optimizer starts afresh.

    A layer that is made of layers is opened: it is called on symbolic inputs, and what it calls is
    followed. It stays of its class where entries of its config, changed, give just the new sizes of
    its weights. Else plain layers take its place; or, where its code does more than its calls show,
    sizes that its config cannot say stay as they are, with a warning that names them.

    The new model has layers of its own, built from their configs. A layer of which nothing changes
    is copied as an object where its config does not make it again, and where that is not possible
    either, both models hold it, which a warning says.

    Before it is returned the new model is run beside the old one, on a small batch of random inputs
    or on `sample`. Where they differ by more than 1e-4 of the largest output, both are run again in
    float64, and what a change of the last digit of weights and inputs does to the model itself
    is allowed for. Inputs that cannot be made, such as strings, are said in a warning.

    Args:
        model: a built Sequential or functional model, nested models included, or a subclassed one
            that can be called on symbolic inputs. It is not changed.
        check: whether to compare the outputs. Defaults to `True`.
        sample: a batch of inputs to compare them on: an array, or a list or dict of arrays like the
            model's inputs, of which at most 32 samples are used. Defaults to `None`: random ones.
        verbose: 1 prints a line for each layer of which something went: how many parameters it
            had and has, and which way it was made. Defaults to 0.

    Returns:
        A Sequential model for a Sequential one; one of the same class where the class is not one
        of Keras' and its config can say the new sizes; else a functional one.

    Raises:
        ShrinkError: a `ValueError`, if the smaller model gives other outputs, which names the first
            layer whose outputs differ; or if a layer that changes cannot be built from its config.
        ValueError: if the model is not built, its graph cannot be seen, it cannot be called on
            `sample`, or `verbose` is neither 0 nor 1.

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    >>> kernel, bias, *rest = model.get_weights()
    >>> kernel[:, 3:] = 0
    >>> model.set_weights([kernel, bias, *rest])
    >>> small = shrink(model)
    >>> small.layers[0].units
    3
    >>> x = np.ones((1, 4), "float32")
    >>> bool(np.allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5))
    True
    """
    check_choice("verbose", int(verbose) if isinstance(verbose, bool) else verbose, (0, 1))
    adapted = find_adapted(model) if isinstance(model, keras.Model) else {}
    if adapted:
        warn(
            "Kept as they are, since LoRA adds to their kernels or they are quantized: layers "
            f"{', '.join(adapted)}. The order is: merge LoRA, prune, shrink, quantize."
        )
    with step(f"shrinking {model.name}"):
        builders, small, fixed = _checked(model, check, sample)
    weights = find_weights(model)
    unreached = Unreached(builders[0].graph, [weight for weight in weights if weight.is_kernel])
    named = {id(weight.variable) for weight in unreached.reasons}
    messages = [unreached.message()] if unreached else []
    messages += _kept(weights, [place for place in fixed if id(place[0]) not in named])
    if messages:
        warn(" ".join(messages))
    if verbose:
        print(summary_of(model, small, builders[0]))
    shared = [f"{type(x).__name__} '{x.name}'" for x in builders[0].kept_shared]
    if shared:
        warn(
            f"The smaller model and the model '{model.name}' have these layers in common, so that "
            f"training one changes the other: {', '.join(shared)}. Neither their config nor what "
            "they hold can be copied; a `get_config` with all arguments of `__init__` helps."
        )
    return small


def _checked(
    model: keras.Model, check: bool, sample: Any
) -> tuple[list[Builder], keras.Model, list[Fixed]]:
    """What `_shrunk` gives, whose outputs are found right if they are to be checked."""
    builders, small, fixed = _shrunk(model)
    if check:
        try:
            with step("comparing outputs"):
                check_outputs(model, small, builders, sample)
        except ShrinkError:
            if not any(builder.plan.uses_configs for builder in builders):
                raise
            # A number in a config may mean more than a width: do without.
            builders, small, fixed = _shrunk(model, keep_classes=False)
            with step("comparing outputs"):
                check_outputs(model, small, builders, sample)
    return builders, small, fixed


def _shrunk(
    model: keras.Model, keep_classes: bool = True
) -> tuple[list[Builder], keras.Model, list[Fixed]]:
    """The steps to a smaller model, the model, and what had to stay for want of a way to say it."""
    tries = Tries(model)
    first = one = _smaller(model, keep_classes, tries, [])
    builders, before = [one.builder], model
    # What is left may be tied less: a convolution of one group in place of two, for instance.
    while one.model.count_params() < before.count_params():
        before = one.model
        further = _smaller(before, keep_classes, tries, one.fixed_in_it, again=True)
        if further is None:
            break
        one = further
        builders.append(one.builder)
    return builders, one.model, first.fixed


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step to a smaller model.

    Attributes:
        builder: has made it.
        model: the smaller model.
        fixed: what had to stay in the larger one for want of a way to say it.
        fixed_in_it: the same places in the smaller one.
    """

    builder: Builder
    model: Any
    fixed: list[Fixed]
    fixed_in_it: list[Fixed]


@overload
def _smaller(
    model: keras.Model, keep_classes: bool, tries: Tries, fixed: Iterable[Fixed]
) -> _Step: ...


@overload
def _smaller(
    model: keras.Model, keep_classes: bool, tries: Tries, fixed: Iterable[Fixed], again: bool
) -> _Step | None: ...


def _smaller(
    model: keras.Model,
    keep_classes: bool,
    tries: Tries,
    fixed: Iterable[Fixed],
    again: bool = False,
) -> _Step | None:
    """One step to a smaller model.

    Args:
        model: the model.
        keep_classes: whether layers that are made of layers may be made from their own configs.
        tries: makes layers with other configs.
        fixed: what is known to have to stay.
        again: whether no model is to be built if nothing goes.
    """
    fixed = list(fixed)
    while True:
        graph = ChannelGraph(model, fixed=fixed)
        removed = _removable(graph)
        if again and not any(removed[graph.roots[axis.labels]].any() for axis in graph.axes):
            return None
        builder = Builder(graph, removed, keep_classes, tries)
        if not builder.plan.fixed:
            small = builder.build(model)
            copies = Transfer(builder).carry(model, small)
            left = [(copies[id(v)][1], i, why) for v, i, why in fixed if id(v) in copies]
            return _Step(builder, small, fixed, left)
        fixed += builder.plan.fixed


def _kept(weights: Iterable[Weight], fixed: Iterable[Fixed]) -> list[str]:
    """A sentence that names the weights of which more could go, if there are any, and why not."""
    paths = {id(weight.variable): weight.path for weight in weights}
    reasons: dict[str, list[str]] = {}
    for variable, _, why in fixed:
        reasons.setdefault(why, []).append(paths.get(id(variable), variable.path))
    parts = [
        f"{', '.join(dict.fromkeys(names))} (fixed by {why})" for why, names in reasons.items()
    ]
    return [f"Channels that could go are kept in: {'; '.join(parts)}."] if parts else []


def _removable(graph: ChannelGraph) -> np.ndarray:
    """Whether each root of the graph can go, as a bool array over all labels."""
    stays = {FROZEN}
    axes = [graph.roots[axis.labels] for axis in graph.axes if len(axis)]
    while True:
        removed = _unread(graph, stays)
        emptied = next((roots for roots in axes if removed[roots].all()), None)
        if emptied is None:
            return removed
        stays.add(int(emptied[0]))


def _unread(graph: ChannelGraph, stays: set[int]) -> np.ndarray:
    """The largest set of channels that can go together if those in `stays` are to stay.

    Starting from what has to stay, whatever it depends on has to stay too.
    """
    removed = np.ones(len(graph.roots), bool)
    removed[list(stays)] = False
    pending = [
        (read, graph.roots[read.axis.labels], ~_replaceable(graph, read)) for read in graph.reads
    ]
    changed = True
    while changed:
        changed = False
        for read, roots, needed in pending:
            asked = needed & removed[roots]
            if not asked.any():
                continue
            if read.used is not None:
                used = read.used[asked]
                for index, output in enumerate(read.outputs):
                    if output is not None:
                        used = used.compress(~removed[graph.roots[output.labels]], axis=index + 1)
                asked[asked] = used.reshape(len(used), -1).any(axis=1)
            if asked.any():
                removed[roots[asked]] = False
                changed = True
    return removed


def _replaceable(graph: ChannelGraph, read: Read) -> np.ndarray:
    """Whether each channel is a constant that can be left out of what is read."""
    constants = read.axis.constants
    agree: np.ndarray = constants == 0
    if read.shift is None:
        return agree
    agree = ~np.isnan(constants)
    for other in graph.reads:
        if other.layer is read.layer:
            # A layer that is called several times has one bias for all of its calls.
            agree &= other.axis.constants == constants
    return agree
