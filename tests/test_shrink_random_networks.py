"""Shrinking networks that nobody drew by hand."""

import keras
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from judging import WAYS, difference, examine
from random_networks import FEATURES, IMAGE, KINDS, SEQUENCE, VOLUME, build_network

pytestmark = pytest.mark.skipif(
    not hasattr(keras.ops, "array_split"), reason="kinds of layers that this Keras lacks"
)

# Of each rank; JAX compiles each operation of each network anew.
EXAMPLES = {"jax": 2, "tensorflow": 8}.get(keras.backend.backend(), 38)

STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, (1 << 16) - 1)), min_size=3, max_size=9
)


@pytest.mark.parametrize("rank", [FEATURES, SEQUENCE, IMAGE, VOLUME])
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_a_random_network_gives_the_same_outputs(rank, steps, seed):
    verdict = examine(rank, steps, seed, reload=seed % 4 == 0)
    assume(verdict.outcome != "no model")
    assert verdict.outcome == "same", verdict


def test_there_are_many_kinds_of_layers_and_ways_to_make_zeros():
    assert len(KINDS) >= 60
    assert len(WAYS) >= 5


@pytest.mark.parametrize("rank", [FEATURES, SEQUENCE, IMAGE, VOLUME])
def test_every_kind_that_takes_a_rank_can_be_built_on_it(rank):
    names = [name for name, (_, ranks, _) in KINDS.items() if rank in ranks]
    for name in names:
        model, used = build_network(rank, [(name, 6)])
        assert used == [name] or KINDS[name][2]  # those that want all sizes may be left out
        assert len(model.inputs) >= 1


def test_a_wrong_model_is_seen():
    model, _ = build_network(FEATURES, [("dense", 1)])
    other, _ = build_network(FEATURES, [("dense", 1)])
    x = keras.random.normal((3, 6), seed=0)
    one, two = ([keras.ops.convert_to_numpy(m(x)).astype("float64")] for m in (model, other))
    assert difference(one, two) > 1e-3
    assert difference(one, one) == 0
