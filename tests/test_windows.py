"""Windows of real models, the colours that follow, and the costs that are summed.

Each is compared with what it stands for: models by flipping single elements of their
discrete latents, colours and windowed sums by going through all elements.
"""

import itertools
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import bbvi
from bbvi.analysis.colouring import Colouring, colours, coupled_axes
from bbvi.analysis.tracing import log_density, run, sample_sites
from bbvi.analysis.windows import Aligned, covers, join
from bbvi.estimators.score import reached_cost
from tests.test_dependence import allows

sample, plate, factor = numpyro.sample, numpyro.plate, numpyro.factor
TURN = jnp.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.3, 0.6]])
PAIR = jnp.stack([TURN, TURN.T, TURN[::-1]])
MEANS = jnp.array([-1.0, 0.3, 2.0])
SIX = np.linspace(-1.0, 2.0, 6, dtype=np.float32)
GRID = np.linspace(-1.0, 2.0, 12, dtype=np.float32).reshape(6, 2)
BACK = Aligned(0, 5, 5, step=-1)
LAG, SELF, BEHIND = Aligned(0, 0, 1), Aligned(0), Aligned(0, -1, 0)


def state(before, name="z"):
    return sample(name, dist.Categorical(TURN[before]))


def chain(y):
    def step(before, y):
        z = state(before)
        sample("y", dist.Normal(MEANS[z], 1.0), obs=y)
        return z, None

    scan(step, 0, y)


def chain_from_a_draw(y):
    def step(before, y):
        z = state(before)
        sample("y", dist.Normal(MEANS[z], 1.0), obs=y)
        return z, z

    last, states = scan(step, sample("start", dist.Categorical(TURN[1])), y)
    sample("last", dist.Normal(MEANS[last], 1.0), obs=0.3)
    sample("again", dist.Normal(MEANS[states], 2.0), obs=y)


def chain_of_order_two(y):
    def step(before, y):
        z = sample("z", dist.Categorical(PAIR[before]))
        sample("y", dist.Normal(MEANS[z] + before[0], 1.0), obs=y)
        return (before[1], z), None

    scan(step, (0, 0), y, history=2)


def chain_without_data():
    def step(before, _):
        z = state(before)
        factor("f", -jnp.abs(MEANS[z] - MEANS[before]))
        return z, None

    scan(step, 0, None, length=5)


def two_chains(y):
    def step(before, y):
        a = state(before[0], "a")
        b = sample("b", dist.Categorical(PAIR[before[1], a]))
        sample("y", dist.Normal(MEANS[a] * MEANS[b], 1.0), obs=y)
        return (a, b), None

    scan(step, (0, 0), y)


def chains_in_a_plate(y):
    def step(before, y):
        with plate("chains", 2):
            z = state(before)
            sample("y", dist.Normal(MEANS[z], 1.0), obs=y)
        return z, None

    scan(step, jnp.zeros(2, int), y)


def chain_with_a_plate(y):
    def step(before, y):
        z = state(before)
        with plate("rows", 2):
            w = sample("w", dist.Bernoulli(0.2 + 0.3 * z))
            sample("y", dist.Normal(MEANS[z] * w, 1.0), obs=y)
        return z, None

    scan(step, 0, y)


def chain_that_accumulates(y):
    def step(total, y):
        z = state(total % 3)
        sample("y", dist.Normal(MEANS[z], 1.0), obs=y)
        return total + z, None

    scan(step, 0, y)


def chain_in_reverse(y):
    def step(before, y):
        z = state(before)
        sample("y", dist.Normal(MEANS[z], 1.0), obs=y)
        return z, None

    scan(step, 0, y, reverse=True)


def emissions_at_a_counter(y):
    with plate("steps", 6):
        z = sample("z", dist.Categorical(TURN[1]))

    def step(t, y):
        sample("y", dist.Normal(MEANS[z[t]] + MEANS[z[t - 1]], 1.0), obs=y)
        return t + 1, None

    scan(step, 1, y[1:])


def vectorised_chain(y):
    z = sample("z", dist.Categorical(jnp.ones((6, 3)) / 3).to_event(1))
    factor("turns", jnp.log(TURN)[z[:-1], z[1:]])
    sample("y", dist.Normal(MEANS[z], 1.0).to_event(1), obs=y)


def grid(y):
    z = sample("z", dist.Bernoulli(0.4 * jnp.ones((6, 2))).to_event(2))
    factor("down", 0.8 * z[1:] * z[:-1])
    factor("right", 0.8 * z[:, 1:] * z[:, :-1])
    sample("y", dist.Normal(z, 1.0).to_event(2), obs=y)


def moving_average(y):
    with plate("steps", 6):
        z = sample("z", dist.Bernoulli(0.4))
        mean = jnp.convolve(z * 1.0, jnp.array([1.0, 0.5, -0.5]))[:6]
        sample("y", dist.Normal(mean, 1.0), obs=y)


# {id: (model, data, {term: {latent: influence}}, {latent: number of colours})}
MODELS = {
    "chain": (
        chain,
        SIX,
        {"z": {"z": (LAG,)}, "y": {"z": (SELF,)}},
        {"z": 2},
    ),
    "chain from a draw": (
        chain_from_a_draw,
        SIX,
        {
            "start": {"start": ()},
            "z": {"start": (), "z": (LAG,)},
            "y": {"z": (SELF,)},
            "last": {"z": (None,)},
            "again": {"z": (SELF,)},
        },
        {"z": 6, "start": 1},
    ),
    "chain of order two": (
        chain_of_order_two,
        SIX,
        {"z": {"z": (Aligned(0, 0, 2),)}, "y": {"z": (Aligned(0, 0, 2),)}},
        {"z": 3},
    ),
    "chain without data": (
        chain_without_data,
        None,
        {"z": {"z": (LAG,)}, "f": {"z": (LAG,)}},
        {"z": 2},
    ),
    "two chains": (
        two_chains,
        SIX,
        {
            "a": {"a": (LAG,)},
            "b": {"a": (SELF,), "b": (LAG,)},
            "y": {"a": (SELF,), "b": (SELF,)},
        },
        {"a": 2, "b": 2},
    ),
    "chains in a plate": (
        chains_in_a_plate,
        GRID,
        {"z": {"z": (LAG, Aligned(1))}, "y": {"z": (SELF, Aligned(1))}},
        {"z": 2},
    ),
    "chain with a plate": (
        chain_with_a_plate,
        GRID,
        {
            "z": {"z": (LAG,)},
            "w": {"z": (SELF,), "w": (SELF, Aligned(1))},
            "y": {"z": (SELF,), "w": (SELF, Aligned(1))},
        },
        {"z": 2, "w": 1},
    ),
    "chain that accumulates": (
        chain_that_accumulates,
        SIX,
        {"z": {"z": (None,)}, "y": {"z": (SELF,)}},
        {"z": 6},
    ),
    "chain in reverse": (
        chain_in_reverse,
        SIX,
        {"z": {"z": (Aligned(0, 4, 5, step=-1),)}, "y": {"z": (BACK,)}},
        {"z": 2},
    ),
    "emissions at a counter": (
        emissions_at_a_counter,
        SIX,
        {"z": {"z": (SELF,)}, "y": {"z": (BEHIND,)}},
        {"z": 2},
    ),
    "vectorised chain": (
        vectorised_chain,
        SIX,
        {"z": {"z": (SELF,)}, "turns": {"z": (BEHIND,)}, "y": {"z": (SELF,)}},
        {"z": 2},
    ),
    "grid": (
        grid,
        GRID,
        {
            "z": {"z": (SELF, Aligned(1))},
            "down": {"z": (BEHIND, Aligned(1))},
            "right": {"z": (SELF, Aligned(1, -1, 0))},
            "y": {"z": (SELF, Aligned(1))},
        },
        {"z": 2},
    ),
    "moving average": (
        moving_average,
        SIX,
        {"z": {"z": (SELF,)}, "y": {"z": (Aligned(0, 0, 2),)}},
        {"z": 3},
    ),
}


def data_of(y):
    return {} if y is None else {"y": y}


@pytest.mark.parametrize("name", MODELS)
def test_model(name):
    model, y, influence, numbers = MODELS[name]
    found = bbvi.analyze(model, data_of(y))
    assert found.influence == influence
    for latent, site in found.latents.items():
        reached = [f[latent] for f in found.influence.values() if latent in f]
        assert colours(reached, site.shape).number == numbers[latent]


@pytest.mark.parametrize("name", MODELS)
def test_model_by_flips(name):
    """Every flip of an element moves only costs in its windows; colours share none."""
    model, y, influence, numbers = MODELS[name]
    analysis = bbvi.analyze(model, data_of(y))
    rng = np.random.default_rng(0)
    shapes = {n: (s.shape, len(s.values)) for n, s in analysis.latents.items()}

    @jax.jit
    @jax.vmap
    def costs(values):
        sites = sample_sites(run(model, data_of(y), jax.random.key(0), values))
        return {n: log_density(s) for n, s in sites.items()}

    flips, rows = [], {n: [] for n in shapes}
    for _ in range(4):
        base = {n: rng.integers(k, size=shape) for n, (shape, k) in shapes.items()}
        flips.append(None)
        for n in shapes:
            rows[n].append(base[n])
        for latent, (shape, k) in shapes.items():
            for position in np.ndindex(shape):
                changed = base[latent].copy()
                changed[position] = (changed[position] + rng.integers(1, k)) % k
                flips.append((latent, position))
                for n in shapes:
                    rows[n].append(changed if n == latent else base[n])
    found = {
        n: np.asarray(c)
        for n, c in costs({n: np.stack(r) for n, r in rows.items()}).items()
    }
    moved = {}
    for row, flip in enumerate(flips):
        if flip is None:
            at = row
            continue
        latent, position = flip
        for term, cost in found.items():
            for place in np.argwhere(~np.isclose(cost[row], cost[at], atol=1e-6)):
                windows = influence[term][latent]
                for i, entry in zip(position, windows, strict=True):
                    assert allows(entry, i, place), (term, latent, position, place)
                moved.setdefault((latent, position), set()).add((term, *place))
    for latent, (shape, _) in shapes.items():
        reached = [f[latent] for f in influence.values() if latent in f]
        colour = colours(reached, shape).of(shape)
        for one, other in itertools.combinations(np.ndindex(shape), 2):
            if colour[one] == colour[other]:
                both = [moved.get((latent, at), set()) for at in (one, other)]
                assert not both[0] & both[1]


def window(rng, axis, size):
    """A random entry whose window is not far off."""
    if rng.random() < 0.2:
        return None
    low, width = int(rng.integers(-size, size + 1)), int(rng.integers(0, 4))
    stride, step = ((1, 1), (1, 1), (2, 1), (1, -1), (1, 2), (3, -2))[rng.integers(6)]
    low += size if step < 0 else 0
    period = int(rng.integers(width + 1, 9)) if rng.random() < 0.3 else 0
    return Aligned(axis, low, low + width, stride, step, period)


@pytest.mark.parametrize("seed", range(30))
def test_reached_cost_is_the_sum_over_each_window(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(0, 3)))
    term = rng.normal(size=rng.integers(1, 6, 3)).astype(np.float32)
    axes = rng.permutation(3)
    influence = tuple(window(rng, int(a), n) for a, n in zip(axes, shape, strict=False))
    found = reached_cost(jnp.asarray(term), influence, shape)
    assert found.ndim == len(shape)
    found = np.broadcast_to(found, shape)
    for position in np.ndindex(shape):
        total = 0.0
        for place in np.ndindex(term.shape):
            inside = all(
                allows(e, i, place) for i, e in zip(position, influence, strict=True)
            )
            total += term[place] if inside else 0.0
        np.testing.assert_allclose(found[position], total, atol=1e-5)


def touched(terms, position):
    """Indices of every term; along a mixed axis one for all."""
    sets = set()
    for t, influence in enumerate(terms):
        ranges = [
            [None]
            if e is None
            else [j for j in range(-60, 60) if allows(e, i, {e.axis: j})]
            for i, e in zip(position, influence, strict=True)
        ]
        sets |= {(t, *place) for place in itertools.product(*ranges)}
    return sets


def meetings(terms, shape):
    """Pairs of elements that share an element of a term."""
    found = {at: touched(terms, at) for at in np.ndindex(shape)}
    pairs = itertools.combinations(found, 2)
    return [(one, other) for one, other in pairs if found[one] & found[other]]


def is_proper(colour, terms):
    """Whether no two elements of one colour share an element of a term."""
    return all(colour[a] != colour[b] for a, b in meetings(terms, colour.shape))


@pytest.mark.parametrize("seed", range(30))
def test_elements_of_one_colour_share_no_cost(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 7, rng.integers(1, 4)))
    terms = [
        tuple(window(rng, a, n) for a, n in enumerate(shape))
        for _ in range(rng.integers(1, 4))
    ]
    found = colours(terms, shape)
    assert is_proper(found.of(shape), terms)
    assert found.of(shape).max() < found.number


@pytest.mark.parametrize("seed", range(10))
def test_no_linear_form_has_fewer_colours(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(2, 5, 2))
    terms = [tuple(window(rng, a, n) for a, n in enumerate(shape)) for _ in range(2)]
    fewest, pairs = colours(terms, shape).number, meetings(terms, shape)
    for number in range(1, fewest):
        for steps in itertools.product(range(number), repeat=2):
            colour = Colouring(number, steps).of(shape)
            assert any(colour[one] == colour[other] for one, other in pairs)


ALONG, ACROSS = (LAG, Aligned(1)), (SELF, Aligned(1, -1, 0))
# {id: (influences, shape, number of colours)}
COLOURS = {
    "nothing": ([], (4, 2), 1),
    "a scalar": ([()], (), 1),
    "widest window": ([(Aligned(0, -2, 1),), (Aligned(0, 5, 5),)], (9,), 4),
    "no wider than the latent": ([(Aligned(0, -2, 1),)], (3,), 3),
    "a row": ([(Aligned(0, 3, 3), None)], (5, 4), 4),
    "corners": ([(LAG, Aligned(1, -1, 0))], (6, 5), 4),
    "a checkerboard": ([ALONG, ACROSS], (6, 5), 2),
    "a large checkerboard": ([ALONG, ACROSS], (4_000, 3_000), 2),
    "a plus with arms of two": ([(Aligned(0, 0, 2), SELF), ACROSS], (9, 9), 3),
    "a Latin square": ([(None, Aligned(0)), (Aligned(0), None)], (7, 7), 7),
    "a cube": (
        [
            (LAG, Aligned(1), Aligned(2)),
            (SELF, Aligned(1, 0, 1), Aligned(2)),
            (SELF, Aligned(1), Aligned(2, 0, 1)),
        ],
        (4, 4, 4),
        2,
    ),
    "an even ring": ([(Aligned(0, 0, 1, period=8),)], (8,), 2),
    "an odd ring": ([(Aligned(0, 0, 1, period=9),)], (9,), 3),
    "a large ring": ([(Aligned(0, -1, 1, period=100_000),)], (100_000,), 4),
    "a torus": (
        [
            (Aligned(0, 0, 1, period=6), SELF),
            (SELF, Aligned(1, 0, 1, period=8)),
        ],
        (6, 8),
        2,
    ),
    "an odd torus": (
        [
            (Aligned(0, 0, 1, period=5), SELF),
            (SELF, Aligned(1, 0, 1, period=8)),
        ],
        (5, 8),
        3,
    ),
    "too long a search": (
        [(None, Aligned(0)), (Aligned(0), None)],
        (900, 900),
        810_000,
    ),
}


@pytest.mark.parametrize("name", COLOURS)
def test_number_of_colours(name):
    terms, shape, number = COLOURS[name]
    found = colours(terms, shape)
    assert found.number == number
    assert len(found.steps) == len(shape)
    if prod(shape) < 100:
        assert is_proper(found.of(shape), terms)


def test_control_fewer_colours_would_share():
    """With one less two elements meet in a cost."""
    wide = [(Aligned(0, -2, 1),)]
    assert is_proper(Colouring(4, (1,)).of((9,)), wide)
    assert not is_proper(Colouring(3, (1,)).of((9,)), wide)


def test_coupled_axes():
    assert coupled_axes([], (5, 4)) == ()
    assert coupled_axes([(Aligned(0, 3, 3), None)], (5, 4)) == (1,)
    assert coupled_axes([(Aligned(0, 3, 4), None)], (5, 1)) == (0,)
    assert coupled_axes([ALONG, ACROSS], (5, 4)) == (0, 1)


def test_join_is_the_hull():
    first, second = {"z": (Aligned(0, -1, 0), SELF)}, {"z": (Aligned(0, 2, 2), None)}
    hull = {"z": (Aligned(0, -1, 2), None)}
    assert join(first, second) == hull
    assert join(first, {"w": (SELF,)}) == {**first, "w": (SELF,)}
    assert join({"z": (SELF,)}, {"z": (Aligned(1),)}) == {"z": (None,)}
    assert covers(hull["z"], first["z"])
    assert not covers(first["z"], second["z"])
