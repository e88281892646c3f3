"""Schedules: every update once, in order, whatever steps the positions take."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_hoyer.schedules import OneShot, Polynomial

epochs = st.one_of(st.integers(0, 20), st.sampled_from([0.25, 0.5, 1.75, 2.1, 7.3]))


def positions(steps, last):
    """What a callback sees: each batch of each epoch, but for its last one, and each epoch."""
    yield 0.0
    for epoch in range(last):
        yield from (epoch + batch / steps for batch in range(1, steps))
        yield float(epoch + 1)


def updates(schedule, steps, last=25):
    previous, found = -math.inf, []
    for position in positions(steps, last):
        if schedule.due(previous, position):
            found.append(position)
        previous = position
    return found


@given(epochs, st.integers(1, 13))
def test_one_shot_cuts_once_at_the_first_position_that_is_not_before_it(epoch, steps):
    (position,) = updates(OneShot(epoch), steps)
    assert epoch <= position < epoch + 1 / steps + 1e-9
    assert OneShot(epoch).progress(position) == 1.0


@given(epochs, epochs, st.sampled_from([0.2, 0.25, 1 / 3, 0.5, 1, 2, 3]), st.sampled_from([12, 30]))
def test_polynomial_makes_each_update_once_and_ends_with_all_the_way(begin, end, frequency, steps):
    assume(end > begin)
    schedule = Polynomial(begin, end, frequency=frequency)
    found = updates(schedule, steps)
    due = {begin + k * frequency for k in range(math.floor((end - begin) / frequency + 1e-9) + 1)}
    # One that falls on the end, or between the same two positions as another, is the same cut.
    grid = {math.ceil(t * steps - 1e-4) for t in [*due, end]}
    assert {round(position * steps) for position in found} == grid
    assert schedule.progress(found[-1]) == 1.0
    assert not schedule.due(end, end + 5)


@given(epochs, epochs, st.floats(0.2, 5), st.sampled_from([0.25, 1, 2]), st.floats(0, 30))
def test_progress_is_the_polynomial_at_the_last_update(begin, end, power, frequency, position):
    assume(end > begin)
    got = Polynomial(begin, end, power, frequency).progress(position)
    if position >= end:
        expected = 1.0
    elif position < begin:
        expected = 0.0
    else:
        last = begin + frequency * math.floor((position - begin) / frequency + 1e-6)
        expected = 1 - (1 - min((last - begin) / (end - begin), 1)) ** power
    assert got == pytest.approx(expected, abs=1e-9)


@given(epochs, epochs, st.floats(0.2, 5), st.floats(0.1, 3))
def test_progress_never_falls(begin, end, power, frequency):
    assume(end > begin)
    schedule = Polynomial(begin, end, power, frequency)
    way = [schedule.progress(t) for t in np.linspace(0, 25, 301)]
    assert way == sorted(way) and way[0] >= 0 and way[-1] == 1


def test_training_that_goes_on_late_makes_up_with_one_update():
    schedule = Polynomial(2, 10)
    assert schedule.due(-math.inf, 7)
    assert not schedule.due(7, 7.5)
    assert schedule.progress(7) == pytest.approx(1 - (1 - 5 / 8) ** 3)


@pytest.mark.parametrize(
    ("schedule", "within"),
    [
        (OneShot(3), False),
        (OneShot(np.int64(3)), False),
        (OneShot(2.5), True),
        (Polynomial(0, 4), False),
        (Polynomial(0, 4, frequency=0.25), True),
        (Polynomial(0.5, 4), True),
        (Polynomial(0, 4, frequency=1.5), True),
    ],
)
def test_says_whether_it_needs_to_look_within_epochs(schedule, within):
    assert schedule.within_epochs is within


@pytest.mark.parametrize("epoch", [-1, math.nan, math.inf, "3", None, True])
def test_refuses_what_is_no_epoch(epoch):
    with pytest.raises(ValueError, match=r"`epoch`. Expected a number of epochs, 0 or more"):
        OneShot(epoch)
    with pytest.raises(ValueError, match="argument `begin`"):
        Polynomial(epoch, 10)


@pytest.mark.parametrize(("begin", "end"), [(5, 5), (5, 4), (0, 0)])
def test_refuses_to_end_before_it_begins(begin, end):
    with pytest.raises(ValueError, match=f"`end`.*begin={begin}, end={end}"):
        Polynomial(begin, end)


@pytest.mark.parametrize("name", ["power", "frequency"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "3", None, True])
def test_refuses_what_is_not_positive(name, value):
    with pytest.raises(ValueError, match=f"`{name}`. Expected a positive number"):
        Polynomial(0, 5, **{name: value})
