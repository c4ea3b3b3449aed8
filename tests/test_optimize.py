"""The loop does what its equations say, and knows hovering from drifting."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bbvi.optimize.loop import State, make_chunk, ravel, unravel
from bbvi.optimize.optimizers import on_vectors
from bbvi.optimize.stopping import Plateaus, is_hopeless
from tests.compiles import count_compiles

ADAM = optax.chain(optax.scale_by_adam(), optax.scale(-1.0))
RATE = 0.3
LIKE = {"a": jax.ShapeDtypeStruct((2,), jnp.float32)}


class Info(NamedTuple):
    elbo: Any
    costs: dict


def loss(params, key, data, baselines):
    """A bowl with its bottom at `data[:2]`, and noise of sd `data[2]`."""
    noise = data[2] * jax.random.normal(key, (2,))
    value = jnp.sum(jnp.array([0.5, 2.0]) * (params["a"] - data[:2] + noise) ** 2)
    return value, Info(-value, {"z": baselines.get("z", 0.0) + params["a"].sum()})


def add(params, step):
    return jax.tree.map(jnp.add, params, step)


def begin(a=(1.0, -2.0), baselines=None):
    params = jnp.array(a)
    return State(params, ADAM.init(params), baselines or {})


def run(chunk, state, index=0, rate=RATE, data=(3.0, 0.5, 0.0), seed=0):
    key = jax.random.key(seed)
    return jax.jit(chunk)(state, key, np.uint32(index), rate, jnp.array(data))


def adam(a, gradient_of, num_steps, unit=1.0):
    """Iterates and gradients of Adam, written out."""
    first, second, iterates, gradients = 0.0, 0.0, [], []
    for t in range(1, num_steps + 1):
        gradient = unit * gradient_of(a)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        a = a - unit * RATE * step
        iterates.append(a)
        gradients.append(gradient)
    return np.array(iterates), np.array(gradients)


def gradient_of(a):
    return np.array([1.0, 4.0]) * (a - np.array([3.0, 0.5]))


def test_one_step_is_a_step_of_adam():
    chunk = make_chunk(loss, ADAM, add, 1, {}, LIKE)
    state, seen = run(chunk, begin())
    # Adam's first step is the rate, against the sign of the gradient.
    np.testing.assert_allclose(state.params, [1.0 + RATE, -2.0 + RATE], 1e-5)
    np.testing.assert_allclose(seen.gradient_sum, [-2.0, -10.0], 1e-6)
    np.testing.assert_allclose(seen.elbos, [-0.5 * 4 - 2.0 * 6.25], 1e-6)


def test_many_steps_and_their_running_sums():
    chunk = make_chunk(loss, ADAM, add, 7, {}, LIKE)
    state, seen = run(chunk, begin())
    iterates, gradients = adam(np.array([1.0, -2.0]), gradient_of, 7)
    np.testing.assert_allclose(state.params, iterates[-1], 1e-4, 1e-4)
    np.testing.assert_allclose(seen.mean, iterates.mean(0), 1e-4)
    np.testing.assert_allclose(seen.variance, iterates.var(0), 1e-3)
    np.testing.assert_allclose(seen.gradient_sum, gradients.sum(0), 1e-4)
    square = (gradients**2).sum(0)
    np.testing.assert_allclose(seen.gradient_square, square, 1e-4)
    assert seen.elbos.shape == (7,)


def test_two_chunks_are_one_of_twice_the_length():
    state, first = run(make_chunk(loss, ADAM, add, 3, {}, LIKE), begin())
    state, second = run(make_chunk(loss, ADAM, add, 3, {}, LIKE), state, index=1)
    whole, seen = run(make_chunk(loss, ADAM, add, 6, {}, LIKE), begin())
    np.testing.assert_allclose(state.params, whole.params, 1e-6)
    elbos = np.concatenate([first.elbos, second.elbos])
    np.testing.assert_allclose(elbos, seen.elbos, 1e-5)


def test_steps_are_taken_in_the_units_of_retract():
    """A unit of 2: gradients are twice as large, and so are steps."""

    def retract(params, step):
        return jax.tree.map(lambda p, s: p + 2 * s, params, step)

    state, seen = run(make_chunk(loss, ADAM, retract, 5, {}, LIKE), begin())
    iterates, gradients = adam(np.array([1.0, -2.0]), gradient_of, 5, unit=2.0)
    np.testing.assert_allclose(state.params, iterates[-1], 1e-4, 1e-4)
    np.testing.assert_allclose(seen.gradient_sum, gradients.sum(0), 1e-4)


def test_rate_scales_the_steps():
    chunk = make_chunk(loss, ADAM, add, 1, {}, LIKE)
    slow, _ = run(chunk, begin(), rate=0.1 * RATE)
    moved = np.asarray(slow.params) - [1.0, -2.0]
    np.testing.assert_allclose(moved, 0.1 * RATE, rtol=1e-5)


def test_noise_differs_between_steps_and_chunks_and_repeats():
    chunk = make_chunk(loss, ADAM, add, 4, {}, LIKE)
    start, noisy = begin(), (3.0, 0.5, 1.0)
    _, first = run(chunk, start, index=0, data=noisy)
    _, again = run(chunk, start, index=0, data=noisy)
    _, other = run(chunk, start, index=1, data=noisy)
    np.testing.assert_array_equal(first.elbos, again.elbos)
    assert not np.any(np.isin(first.elbos, other.elbos))
    assert len(np.unique(first.elbos)) == 4


def test_baselines_are_running_averages_of_the_costs():
    chunk = make_chunk(loss, ADAM, add, 1, {"z": 0.75}, LIKE)
    state, _ = run(chunk, begin(baselines={"z": jnp.array(8.0)}))
    # The cost is the old average plus the sum of the parameters.
    assert state.baselines["z"] == pytest.approx(0.75 * 8.0 + 0.25 * (8.0 - 1.0))


def test_rate_data_and_index_are_arguments_of_one_program():
    chunk = jax.jit(make_chunk(loss, ADAM, add, 2, {}, LIKE))
    key, start = jax.random.key(0), begin()
    datas = [jnp.array([3.0, 0.5, 0.0]), jnp.array([1.0, 2.0, 0.1])]
    args = (np.uint32(0), np.float32(0.1))
    state, _ = chunk(start, key, *args, datas[0])
    with count_compiles() as count:
        chunk(state, key, np.uint32(5), np.float32(0.2), datas[1])
    assert count.compiles == 0


# Plateaus.


def plateaus(means, variance=1.0, resolution=0.0, **options):
    """Plateaus that have seen chunks of these means, `(num_chunks, dim)`."""
    found = Plateaus(100, **options)
    for mean in np.atleast_2d(np.asarray(means, float).T).T:
        zeros = np.zeros_like(mean)
        found.add(mean, zeros + variance, zeros + resolution, 0.0)
    return found


HOVER = np.array([0.1, -0.2, 0.05, 0.15, -0.1, 0.0, 0.1, -0.05])
DRIFT = np.arange(8.0) * 3


def test_too_few_chunks_are_no_plateau():
    assert plateaus(HOVER[:3]).window() is None
    assert plateaus(HOVER[:4]).window() == 4


def test_hovering_is_a_plateau_and_drifting_is_not():
    assert plateaus(HOVER).window() == 8
    assert plateaus(DRIFT).window() is None


def test_the_drift_before_the_plateau_is_left_out():
    both = np.concatenate([DRIFT - 30.0, HOVER])
    assert plateaus(both).window() == 8
    short = np.concatenate([[-30.0, -20.0], HOVER[:6]])
    assert plateaus(short).window() == 6


def test_one_drifting_parameter_of_three_is_enough_to_wait():
    means = np.stack([HOVER, HOVER[::-1], DRIFT], 1)
    assert plateaus(means).window() is None
    few = np.repeat(HOVER[:, None], 400, 1)
    few[:, 0] = DRIFT
    assert plateaus(few).window() == 8


def test_a_drift_below_the_resolution_is_none():
    assert plateaus(DRIFT, resolution=100.0).window() == 8
    assert plateaus(DRIFT, resolution=0.1).window() is None


def test_parameters_at_rest_are_a_plateau():
    assert plateaus(np.zeros(4), variance=0.0).window() == 4


def test_no_parameters_are_a_plateau():
    assert plateaus(np.zeros((4, 0))).window() == 4


def test_planned_chunks_are_waited_for_and_need_no_rhat():
    assert plateaus(DRIFT[:7], planned=8).window() is None
    assert plateaus(DRIFT, planned=8).window() == 6


def test_average_is_of_the_latest_chunks():
    found = plateaus(np.stack([DRIFT, HOVER], 1))
    np.testing.assert_allclose(found.average(2), [19.5, 0.025])
    np.testing.assert_allclose(found.average(8), [10.5, HOVER.mean()])


def test_error_is_that_of_the_means_of_four_batches():
    found = plateaus(np.stack([HOVER, 5 * HOVER], 1))
    batches = HOVER.reshape(4, 2).mean(1)
    expected = np.std(batches, ddof=1) / 2
    assert found.error(8, np.array([1.0, 10.0])) == pytest.approx(expected)
    assert found.error(8, np.array([1.0, 0.5])) == pytest.approx(10 * expected)
    assert found.error(8, np.array([0.0, 5.0])) == pytest.approx(expected)
    assert np.isnan(found.error(8, np.zeros(2)))


def test_reset_forgets():
    found = plateaus(HOVER)
    found.reset(planned=2)
    assert found.window() is None
    for mean in (1.0, 2.0, 3.0, 4.0):
        found.add(np.array([mean]), np.zeros(1), np.zeros(1), 0.0)
    assert found.window() == 3
    found.reset()
    assert found.planned == 0
    assert found.means == found.variances == []


def test_an_optimizer_of_trees_works_on_vectors():
    """Each leaf has a rate of its own, by its name."""
    tree = {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array(3.0)}
    rates = {"a": optax.sgd(0.1), "b": optax.sgd(1.0)}
    optimizer = on_vectors(optax.multi_transform(rates, {"a": "a", "b": "b"}), tree)
    vector = ravel(tree)
    np.testing.assert_array_equal(vector, [1.0, 2.0, 3.0])
    jax.tree.map(np.testing.assert_array_equal, unravel(vector, tree), tree)
    update, _ = optimizer.update(jnp.ones(3), optimizer.init(vector), vector)
    np.testing.assert_allclose(update, [-0.1, -0.1, -1.0])


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([-9.0, -8.0, -7.0, -7.0, -7.0], False),  # too few
        ([-9.0, -7.0, -7.0, -7.0, -7.0, -7.0, -7.0], True),  # the first is long ago
        ([-9.0, -8.0, -7.0, -7.0, -7.0, -7.0], False),  # gained 1 on the three before
        ([-7.0, -7.0, -7.0, -8.0, -9.0, -9.0], True),  # fell
    ],
)
def test_a_bound_is_flat_when_it_gains_little(bounds, expected):
    found = Plateaus(size=100)
    for bound in bounds:
        found.add(np.zeros(2), np.ones(2), np.zeros(2), bound)
    assert found.is_flat(3, 0.9) is expected
    found.reset()
    assert not found.is_flat(3, 0.9)


HOPELESS = {
    "too few chunks": ([-30.0] * 4, 100, 0.0, False),
    "hovers below": ([-30.0, -30.1, -30.0, -29.9, -30.0], 15, -5.0, True),
    "would just come there": ([-30.0, -28.0, -26.0, -24.0, -22.0], 10, -2.0, False),
    "would just miss it": ([-30.0, -28.0, -26.0, -24.0, -22.0], 10, -1.9, True),
    "its fastest chunk counts": ([-30.0, -28.0, -27.9, -27.8, -27.7], 10, -8.0, False),
    "chunks long ago do not": ([-90.0, -30.0, -30, -30, -30, -30], 10, -8.0, True),
    "falls": ([-30.0, -31.0, -32.0, -33.0, -34.0], 10, -34.0, False),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_a_rival_is_given_up_when_it_cannot_come_to_the_goal(case):
    bounds, left, goal, expected = HOPELESS[case]
    assert is_hopeless(bounds, left, goal) is expected
