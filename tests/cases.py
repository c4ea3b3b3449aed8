"""Tiny models with exact answers: what every estimator and guide is held to.

A `Case` is a model with a guide and fixed parameters, small enough that the ELBO is a
sum over all configurations of the latents: discrete ones are enumerated, continuous
ones lie on a fine grid. `jax.grad` of that sum is the exact gradient. The guide is
written out by hand, also where bbvi builds its own, so that the oracle owes nothing to
what it judges. All sizes differ and all targets are asymmetric.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions.distribution import (
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)

from bbvi import estimators, guides

sample, param = numpyro.sample, numpyro.param
Marginalized = estimators.Marginalized()
Local = estimators.LocalExpectation()
Score = estimators.ScoreFunction(estimators.LeaveOneOut())
Averaged = estimators.ScoreFunction(estimators.RunningAverage())
ScoreOfChoice = estimators.ScoreFunction()
Antithetic = estimators.ScoreFunction(control_variate=estimators.Antithetic())
Scaled = estimators.ScoreFunction(control_variate=estimators.OptimalScale())
Double = estimators.ScoreFunction(control_variate=estimators.DoubleControl())
Learned = estimators.ScoreFunction(control_variate=estimators.LearnedBaseline("y"))
Partly = estimators.ScoreFunction(control_variate=estimators.SumAndSample())
Pathwise = estimators.Reparameterized()
Landing = estimators.Reparameterized(stick_the_landing=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, a guide, parameters and the exact bound.

    Attributes:
        model: The model.
        data: Its arguments.
        guide: The guide written out, its parameters unconstrained.
        params: Where the gradient is taken; guide's and model's own.
        grid: Values of the latents, `{site: (n, *shape)}`, in all combinations of
            the rows of different sites.
        cell: Log volume of a grid cell; where cells differ, of each row of a site's.
        family: What `bbvi.plan` is given; None hands it the written guide.
        estimators: Overrides.
        num_particles: Likewise.
        summed: Sites of the grid that are summed out of the model.
        whole: Arguments for the oracle where they differ (full batch).
        exact: The bound as a function of the parameters, where no grid will do.
        samples: Gradients to draw.
        detectable: Smallest error that must be found: of the bound relative to
            itself, of the gradient relative to its largest component (0.3 at least).
    """

    model: Callable[..., Any]
    data: Mapping[str, Any]
    guide: Callable[..., Any] | None
    params: Mapping[str, Any]
    grid: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    cell: float | Mapping[str, np.ndarray] = 0.0
    family: Any = guides.MeanField()
    estimators: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_particles: int = 4
    summed: tuple[str, ...] = ()
    whole: Mapping[str, Any] | None = None
    exact: Callable[[Any], Any] | None = None
    samples: int = 16_000
    detectable: float = 0.25

    def bound(self, params):
        """The exact ELBO."""
        if self.exact is not None:
            return self.exact(params)
        return exact_elbo(self, params)

    def but(self, **changes):
        """The case with some fields changed."""
        return dataclasses.replace(self, **changes)


def exact_elbo(case, params):
    """Sum over the grid of `q (log p - log q)`, scales and masks as NumPyro's."""
    data = case.data if case.whole is None else case.whole
    kept = combinations({n: g for n, g in case.grid.items() if n not in case.summed})
    gone = combinations({n: g for n, g in case.grid.items() if n in case.summed})

    def joint(values):
        trace = run(case.model, data, params, values)
        return density(trace)

    def one(values, cells):
        trace = run(case.guide, data, params, values)
        trace = {n: site for n, site in trace.items() if n not in case.summed}
        weight = jnp.exp(density(trace, plain=True) + sum(cells.values()))
        if gone:
            log_p = jax.nn.logsumexp(
                jax.vmap(lambda more: joint({**values, **more}))(gone)
            )
        else:
            log_p = joint(values)
        return weight * (log_p - density(trace))

    if not kept:
        return jax.nn.logsumexp(jax.vmap(joint)(gone))
    cells = case.cell
    if not isinstance(cells, Mapping):
        first = next(iter(kept))
        cells = {n: np.full(len(case.grid[n]), cells * (n == first)) for n in kept}
    cells = combinations({n: cells[n] for n in kept})
    return jnp.sum(jax.vmap(one)(kept, cells))


def run(program, data, params, values):
    """The trace at these values; parameters that were left out start anywhere."""
    data = {n: jnp.asarray(x) if np.ndim(x) else x for n, x in data.items()}
    given = handlers.substitute(program, data={**params, **values})
    return handlers.trace(handlers.seed(given, 0)).get_trace(**data)


def density(trace, plain=False):
    """Log density of the sample sites; `plain` without their scales and masks."""
    total = 0.0
    for site in trace.values():
        if site["type"] != "sample":
            continue
        if plain:
            total += jnp.sum(without_mask(site["fn"]).log_prob(site["value"]))
        else:
            scale = 1.0 if site["scale"] is None else site["scale"]
            total += jnp.sum(scale * site["fn"].log_prob(site["value"]))
    return total


def without_mask(fn):
    if isinstance(fn, MaskedDistribution):
        return without_mask(fn.base_dist)
    if isinstance(fn, Independent):
        return without_mask(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return without_mask(fn.base_dist).expand(fn.batch_shape)
    return fn


def combinations(grid):
    """All combinations of the rows of several sites."""
    if not grid:
        return {}
    sizes = [len(rows) for rows in grid.values()]
    at = np.meshgrid(*map(np.arange, sizes), indexing="ij")
    return {
        name: jnp.asarray(rows)[index.ravel()]
        for (name, rows), index in zip(grid.items(), at, strict=True)
    }


def table(values, *shape):
    """Every array of a shape with these values."""
    size = math.prod(shape)
    rows = list(itertools.product(values, repeat=size))
    return np.array(rows).reshape(-1, *shape)


def bits(*shape):
    return table([0, 1], *shape)


def line(low, high, number=240):
    """Midpoints of equal cells, `(rows, log width)`."""
    width = (high - low) / number
    return low + width * (np.arange(number) + 0.5), math.log(width)


def hermite(dim, number=30):
    """Nodes and weights of a standard normal in `dim` dimensions."""
    x, w = np.polynomial.hermite_e.hermegauss(number)
    nodes = np.stack(np.meshgrid(*[x] * dim, indexing="ij"), -1).reshape(-1, dim)
    weights = np.stack(np.meshgrid(*[w] * dim, indexing="ij"), -1).reshape(-1, dim)
    return jnp.asarray(nodes), jnp.asarray((weights / w.sum()).prod(-1))


def f(*numbers):
    return np.array(numbers, np.float32)


def logits(name="z"):
    return dist.Bernoulli(logits=param(f"{name}.logits", 0.0))


def one_of(name="z"):
    return dist.Categorical(logits=param(f"{name}.table", 0.0))


# --- one element -------------------------------------------------------------------


def scalar_model(y):
    z = sample("z", dist.Bernoulli(0.3))
    sample("y", dist.Normal(1.5 * z + 0.2, 0.7), obs=y)


def scalar_guide(y):
    sample("z", logits())


SCALAR = Case(
    scalar_model, {"y": f(1.1)[0]}, scalar_guide, {"z.logits": 0.4}, {"z": bits()}
)


def categorical_model(y):
    m = param("m", jnp.zeros(3))
    z = sample("z", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))
    sample("y", dist.Normal(m[z], 0.8), obs=y)


CATEGORICAL = Case(
    categorical_model,
    {"y": f(0.9)[0]},
    lambda y: sample("z", one_of()),
    {"z.table": f(0.3, -0.5, 0.8), "m": f(-1.0, 0.4, 2.0)},
    {"z": table([0, 1, 2])},
)


def offset_model(y):
    z = sample("z", dist.DiscreteUniform(2, 5))
    sample("y", dist.Normal(0.4 * z, 0.6), obs=y)


def offset_guide(y):
    index = sample("z", Shifted(param("z.table", jnp.zeros(4)), 2))
    assert index is not None


class Shifted(dist.Distribution):
    """A categorical that starts at `low`, written apart from bbvi's own."""

    pytree_data_fields = ("logits",)
    pytree_aux_fields = ("low",)
    support = dist.constraints.integer_interval(2, 5)

    def __init__(self, logits, low):
        self.logits, self.low = logits, low
        super().__init__((), ())

    def sample(self, key, sample_shape=()):
        return self.low + jax.random.categorical(key, self.logits, shape=sample_shape)

    def log_prob(self, value):
        return jax.nn.log_softmax(self.logits)[value - self.low]


OFFSET = Case(
    offset_model,
    {"y": f(1.4)[0]},
    offset_guide,
    {"z.table": f(0.2, -0.3, 0.7, 0.1)},
    {"z": np.arange(2, 6)},
)


def poisson_model(y):
    z = sample("z", dist.Poisson(2.5))
    sample("y", dist.Normal(0.5 * z, 0.9), obs=y)


def poisson_guide(y):
    mean, concentration = param("z.mean", 0.0), param("z.concentration", 0.0)
    sample("z", dist.NegativeBinomial2(jnp.exp(mean), jnp.exp(concentration)))


POISSON = Case(
    poisson_model,
    {"y": f(1.9)[0]},
    poisson_guide,
    {"z.mean": 0.7, "z.concentration": 1.2},
    {"z": np.arange(90)},
)

# --- plates ------------------------------------------------------------------------


def plate_model(y):
    with numpyro.plate("rows", 3):
        z = sample("z", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7])))
        sample("y", dist.Normal(1.5 * z, 0.8), obs=y)


def plate_guide(y):
    with numpyro.plate("rows", 3):
        sample("z", logits())


PLATE = Case(
    plate_model,
    {"y": f(0.3, 1.9, -0.4)},
    plate_guide,
    {"z.logits": f(0.4, -0.6, 1.1)},
    {"z": bits(3)},
)


def nested_model(y):
    with numpyro.plate("groups", 2, dim=-2):
        a = sample("a", dist.Bernoulli(0.4))
        with numpyro.plate("rows", 3, dim=-1):
            b = sample("b", dist.Bernoulli(jnp.where(a == 1, 0.8, 0.3)))
            sample("y", dist.Normal(a + 1.4 * b, 0.9), obs=y)


def nested_guide(y):
    with numpyro.plate("groups", 2, dim=-2):
        sample("a", logits("a"))
        with numpyro.plate("rows", 3, dim=-1):
            sample("b", logits("b"))


NESTED = Case(
    nested_model,
    {"y": f(0.3, 1.9, -0.4, 2.2, 0.7, 1.0).reshape(2, 3)},
    nested_guide,
    {
        "a.logits": f(0.5, -0.7).reshape(2, 1),
        "b.logits": f(0.1, 0.9, -0.8, 0.4, -0.2, 0.6).reshape(2, 3),
    },
    {"a": bits(2, 1), "b": bits(2, 3)},
)


def coupled(mean):
    """A plate that is none: the likelihood couples its elements."""

    def model(y):
        with numpyro.plate("rows", 3):
            z = sample("z", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7])))
            sample("y", dist.Normal(mean(z), 0.8), obs=y)

    return model


MATRIX = f(1.0, 0.5, -0.7, 0.0, 1.2, 0.4, 0.8, -0.3, 0.6).reshape(3, 3)
COUPLED = {
    "sum": PLATE.but(model=coupled(lambda z: 0.8 * z.sum() + jnp.zeros(3))),
    "roll": PLATE.but(model=coupled(lambda z: z + 0.7 * jnp.roll(z, 1))),
    "matrix": PLATE.but(model=coupled(lambda z: MATRIX @ z)),
    "flip": PLATE.but(model=coupled(lambda z: 1.3 * z[::-1])),
}


def no_plate_model(x):
    z = sample("z", dist.Bernoulli(jnp.array([0.3, 0.6])))
    sample("x", dist.Normal(jnp.array([[1.0, 0.8], [-0.4, 1.5]]) @ z, 0.7), obs=x)


NO_PLATE = Case(
    no_plate_model,
    {"x": f(1.2, 0.1)},
    lambda x: sample("z", logits()),
    {"z.logits": f(0.3, -0.5)},
    {"z": bits(2)},
)


def event_model(y):
    z = sample("z", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7])).to_event(1))
    sample("y", dist.Normal(MATRIX[:2] @ z, 0.8).to_event(1), obs=y)


EVENT = PLATE.but(
    model=event_model,
    data={"y": f(0.3, 1.9)},
    guide=lambda y: sample("z", logits().to_event(1)),
)

# --- chains ------------------------------------------------------------------------


def scan_model(y):
    def step(before, y):
        z = sample("z", dist.Bernoulli(jnp.where(before == 1, 0.8, 0.25)))
        sample("y", dist.Normal(1.3 * z, 0.7), obs=y)
        return z, None

    scan(step, jnp.array(0), y)


def scan_guide(y):
    sample("z", logits())


SCAN = PLATE.but(model=scan_model, guide=scan_guide)


def loop_model(y):
    z = jnp.array(0)
    for t in range(3):
        z = sample(f"z{t}", dist.Bernoulli(jnp.where(z == 1, 0.8, 0.25)))
        sample(f"y{t}", dist.Normal(1.3 * z, 0.7), obs=y[t])


def loop_guide(y):
    for t in range(3):
        sample(f"z{t}", logits(f"z{t}"))


LOOP = Case(
    loop_model,
    PLATE.data,
    loop_guide,
    {"z0.logits": 0.4, "z1.logits": -0.6, "z2.logits": 1.1},
    {f"z{t}": bits() for t in range(3)},
)


def flat_scan_guide(y):
    """Independent draws, inside one NumPyro scan all the same."""

    def step(carry, logits):
        sample("z", dist.Bernoulli(logits=logits))
        return carry, None

    scan(step, None, param("start", jnp.zeros(3)))


def autoregressive_scan_guide(y):
    """Each step depends on the draw before it, inside one NumPyro scan."""
    start, slope = param("start", jnp.zeros(3)), param("slope", 0.0)

    def step(before, start):
        z = sample("z", dist.Bernoulli(logits=start + slope * before))
        return z, None

    scan(step, jnp.array(0), start)


AUTOREGRESSIVE_SCAN = SCAN.but(
    guide=autoregressive_scan_guide,
    family=None,
    params={"start": f(0.4, -0.6, 0.3), "slope": 1.7},
)


def autoregressive_loop_guide(y):
    slope, z = param("slope", 0.0), 0
    for t in range(3):
        z = sample(
            f"z{t}", dist.Bernoulli(logits=param(f"z{t}.logits", 0.0) + slope * z)
        )


AUTOREGRESSIVE_LOOP = LOOP.but(
    guide=autoregressive_loop_guide, family=None, params={**LOOP.params, "slope": 1.7}
)

# --- windows: costs that hold neighbours ---------------------------------------------

TURNS = jnp.array([[0.7, 0.3], [0.2, 0.8]])


def chain_model(y):
    """A Markov chain in one NumPyro scan, whose emissions see two states."""

    def step(before, y):
        z = sample("z", dist.Categorical(TURNS[before]))
        sample("y", dist.Normal(1.3 * z + 0.6 * before, 0.7), obs=y)
        return z, None

    scan(step, 0, y)


def chain_guide(y):
    sample("z", logits())


_FOUR = f(0.3, 1.9, -0.4, 1.1)
_LOGITS = f(0.4, -0.6, 1.1, 0.2)
CHAIN = Case(
    chain_model, {"y": _FOUR}, chain_guide, {"z.logits": _LOGITS}, {"z": bits(4)}
)


def reversed_model(y):
    """A chain from the last observation to the first."""

    def step(before, y):
        z = sample("z", dist.Categorical(TURNS[before]))
        sample("y", dist.Normal(1.3 * z + 0.6 * before, 0.7), obs=y)
        return z, None

    scan(step, 0, y, reverse=True)


REVERSED = CHAIN.but(model=reversed_model)


def torus_model(y):
    """A grid whose ends meet, seen from the other side."""
    z = sample("z", dist.Bernoulli(0.4 * jnp.ones((2, 4))).to_event(2))
    sign = 2 * z - 1
    numpyro.factor("down", 0.9 * z * jnp.roll(z, 1, 0))
    numpyro.factor("right", 0.6 * sign * jnp.roll(sign, -1, 1))
    sample("y", dist.Normal(1.2 * z[:, ::-1], 0.8).to_event(2), obs=y)


TORUS = Case(
    torus_model,
    {"y": f(0.3, 1.9, -0.4, 1.1, 0.6, -0.2, 1.4, 0.1).reshape(2, 4)},
    lambda y: sample("z", logits().to_event(2)),
    {"z.logits": f(0.4, -0.6, 1.1, 0.2, -0.9, 0.5, 0.1, 0.7).reshape(2, 4)},
    {"z": bits(2, 4)},
)


def ring_model(y):
    """A ring of five, whose elements see two before them."""
    z = sample("z", dist.Bernoulli(0.4 * jnp.ones(5)).to_event(1))
    mean = 1.3 * z - 0.8 * jnp.roll(z, 1) * jnp.roll(z, 2)
    sample("y", dist.Normal(mean, 0.7).to_event(1), obs=y)


RING = Case(
    ring_model,
    {"y": f(0.3, 1.9, -0.4, 1.1, 0.8)},
    lambda y: sample("z", logits().to_event(1)),
    {"z.logits": f(0.4, -0.6, 1.1, 0.2, -0.9)},
    {"z": bits(5)},
)


def coarse_model(y):
    """Pairs of elements meet, and so do every other of them backwards."""
    z = sample("z", dist.Bernoulli(0.4 * jnp.ones(5)).to_event(1))
    numpyro.factor("pairs", 1.2 * z[:-1:2] * z[1::2])
    sample("y", dist.Normal(1.3 * z[::-2], 0.7).to_event(1), obs=y)


COARSE = Case(
    coarse_model,
    {"y": _FOUR[:3]},
    lambda y: sample("z", logits().to_event(1)),
    {"z.logits": f(0.4, -0.6, 1.1, 0.2, -0.9)},
    {"z": bits(5)},
)


def vectorised_model(y):
    """A binary autoregression written with slices, beginning before the data."""
    z = sample("z", dist.Bernoulli(0.4 * jnp.ones(5)).to_event(1))
    numpyro.factor("turns", jnp.log(TURNS)[z[:-1], z[1:]])
    sample("y", dist.Normal(1.3 * z[1:] - 0.8 * z[:-1], 0.7).to_event(1), obs=y)


VECTORISED = Case(
    vectorised_model,
    {"y": _FOUR},
    lambda y: sample("z", logits().to_event(1)),
    {"z.logits": f(0.4, -0.6, 1.1, 0.2, -0.9)},
    {"z": bits(5)},
)


def ising_model(y):
    """A grid whose neighbours attract each other."""
    z = sample("z", dist.Bernoulli(0.4 * jnp.ones((3, 3))).to_event(2))
    numpyro.factor("down", 0.9 * (2 * z[1:] - 1) * (2 * z[:-1] - 1))
    numpyro.factor("right", 0.6 * (2 * z[:, 1:] - 1) * (2 * z[:, :-1] - 1))
    sample("y", dist.Normal(1.2 * z, 0.8).to_event(2), obs=y)


ISING = Case(
    ising_model,
    {"y": f(0.3, 1.9, -0.4, 1.1, 0.6, -0.2, 1.4, 0.1, 0.8).reshape(3, 3)},
    lambda y: sample("z", logits().to_event(2)),
    {"z.logits": f(0.4, -0.6, 1.1, 0.2, -0.9, 0.5, 0.1, 0.7, -0.3).reshape(3, 3)},
    {"z": bits(3, 3)},
)


def shifted_model(y):
    """A plate that is none: each row sees the one before it."""
    with numpyro.plate("rows", 4):
        z = sample("z", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7, 0.4])))
        before = jnp.concatenate([jnp.zeros(1), z[:-1]])
        sample("y", dist.Normal(1.2 * z - 0.9 * before, 0.8), obs=y)


def shifted_guide(y):
    with numpyro.plate("rows", 4):
        sample("z", logits())


SHIFTED = Case(
    shifted_model,
    {"y": _FOUR},
    shifted_guide,
    {"z.logits": _LOGITS},
    {"z": bits(4)},
)


def late_model(y):
    """Each observation sees the element before its own; the first one sees none."""
    mu = sample("mu", dist.Normal(0.4, 1.1))
    with numpyro.plate("rows", 3):
        z = sample("z", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7])))
    before = jnp.concatenate([jnp.zeros(1), z])
    sample("y", dist.Normal(mu + 1.6 * before, 0.8).to_event(1), obs=y)


def late_guide(y):
    sample("mu", dist.Normal(param("mu.loc", 0.0), jnp.exp(param("mu.scale", 0.0))))
    with numpyro.plate("rows", 3):
        sample("z", logits())


_LATE = line(-4.0, 5.0, 160)
LATE = Case(
    late_model,
    {"y": _FOUR},
    late_guide,
    {"mu.loc": 0.5, "mu.scale": -0.6, "z.logits": f(0.4, -0.6, 1.1)},
    {"mu": _LATE[0], "z": bits(3)},
    _LATE[1],
)
WINDOWED = {
    "chain": CHAIN,
    "chain in reverse": REVERSED,
    "vectorised chain": VECTORISED,
    "strides": COARSE,
    "torus": TORUS,
    "ring": RING,
    "grid": ISING,
    "shifted plate": SHIFTED,
}

# --- minibatches, scales, masks ------------------------------------------------------


def minibatch_model(y, batch=None):
    with numpyro.plate("rows", 5, batch) as index:
        z = sample("z", dist.Bernoulli(0.35))
        sample("y", dist.Normal(1.5 * z, 0.8), obs=y[index])


def minibatch_guide(y, batch=None):
    with numpyro.plate("rows", 5, batch) as index:
        sample("z", dist.Bernoulli(logits=param("z.logits", jnp.zeros(5))[index]))


_ROWS = {"y": f(0.3, 1.9, -0.4, 1.1, 0.6)}


def minibatch(batch):
    return Case(
        minibatch_model,
        {**_ROWS, "batch": batch},
        minibatch_guide,
        {"z.logits": f(0.4, -0.6, 1.1, 0.2, -0.9)},
        {"z": bits(5)},
        whole=_ROWS,
    )


def pairs_model(y, batch=None):
    with numpyro.plate("rows", 5, batch) as index:
        z = sample("z", dist.Bernoulli(0.35))
        w = sample("w", dist.Bernoulli(jnp.where(z == 1, 0.8, param("p", 0.3))))
        sample("y", dist.Normal(1.5 * z - w, 0.8), obs=y[index])


def pairs(batch):
    """Two finite sites in each row of a minibatch."""
    return Case(
        pairs_model,
        {**_ROWS, "batch": batch},
        None,
        {"p": 0.4},
        {"z": bits(5), "w": bits(5)},
        summed=("z", "w"),
        whole=_ROWS,
    )


def mixed_model(y, batch=None):
    mu = sample("mu", dist.Normal(0.5, 1.0))
    with numpyro.plate("rows", 4, batch) as index:
        z = sample("z", dist.Bernoulli(0.35))
        sample("y", dist.Normal(mu + 2.0 * z, 0.8), obs=y[index])


def mixed_guide(y, batch=None):
    """A pathwise global upstream of discrete locals: score and path gradients meet."""
    mu = sample("mu", dist.Normal(param("m", 0.0), jnp.exp(param("s", 0.0))))
    with numpyro.plate("rows", 4, batch) as index:
        sample("z", dist.Bernoulli(logits=param("w", 1.0) * (y[index] - mu - 1.0)))


_MIXED_ROWS = {"y": f(0.3, 2.9, -0.4, 1.6)}


def mixed_minibatch(batch):
    points, cell = line(-3.6, 4.4, 160)
    return Case(
        mixed_model,
        {**_MIXED_ROWS, "batch": batch},
        mixed_guide,
        {"m": 0.4, "s": -0.7, "w": 0.8},
        {"mu": points, "z": bits(4)},
        cell,
        family=None,
        whole=_MIXED_ROWS,
        samples=40_000,
    )


def scaled_case(scale):
    """A power of the model's density; a family's q is none."""
    return PLATE.but(model=handlers.scale(PLATE.model, scale=scale))


def scaled_pair(scale):
    """Both scaled by the user: the bound is multiplied."""
    case = scaled_case(scale)
    return case.but(guide=handlers.scale(case.guide, scale=scale), family=None)


MASK = np.array([True, False, True])
MASKED = PLATE.but(
    model=handlers.mask(plate_model, mask=MASK),
    guide=handlers.mask(plate_guide, mask=MASK),
)


def masked_event_model(y):
    with numpyro.plate("rows", 2), handlers.mask(mask=np.array([True, False])):
        p = jnp.array([[0.2, 0.5, 0.7], [0.6, 0.3, 0.4]])
        z = sample("z", dist.Bernoulli(p).to_event(1))
        sample("y", dist.Normal(z @ jnp.array([1.0, 0.6, -0.8]), 0.7), obs=y)


def masked_event_guide(y):
    with numpyro.plate("rows", 2), handlers.mask(mask=np.array([True, False])):
        sample("z", logits().to_event(1))


MASKED_EVENT = Case(
    masked_event_model,
    {"y": f(0.9, -0.3)},
    masked_event_guide,
    {"z.logits": f(0.1, 0.9, -0.8, 0.4, -0.2, 0.6).reshape(2, 3)},
    {"z": bits(2, 3)},
)


def whole_mask_model(y, use):
    z = sample("z", dist.Bernoulli(0.3))
    with handlers.mask(mask=use):
        sample("y", dist.Normal(1.5 * z, 0.7), obs=y)


def imputation_model(y, seen):
    p = sample("p", dist.Normal(0.3, 0.8))
    with numpyro.plate("rows", 3):
        sample(
            "y",
            dist.Bernoulli(logits=p + jnp.array([0.5, -1.0, 0.2])),
            obs=y,
            obs_mask=seen,
        )


def imputation_guide(y, seen):
    loc, scale = param("p.loc", 0.0), param("p.scale", 0.0)
    sample("p", dist.Normal(loc, jnp.exp(scale)))
    with numpyro.plate("rows", 3), handlers.mask(mask=~seen):
        sample("y_unobserved", logits("y_unobserved"))


IMPUTATION = Case(
    imputation_model,
    {"y": np.array([1, 0, 1]), "seen": np.array([True, False, True])},
    imputation_guide,
    {"p.loc": 0.5, "p.scale": -0.4, "y_unobserved.logits": f(0.2, 0.8, -0.4)},
    {"p": line(-4.0, 5.0, 120)[0], "y_unobserved": bits(3)},
    line(-4.0, 5.0, 120)[1],
)

# --- several sites -------------------------------------------------------------------


def shared_model(y):
    a = sample("a", dist.Bernoulli(0.35))
    b = sample("b", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))
    sample("y", dist.Normal(1.2 * a + 0.7 * b, 0.8), obs=y)


def shared_guide(y):
    sample("a", logits("a"))
    sample("b", dist.Categorical(logits=param("b.table", jnp.zeros(3))))


SHARED = Case(
    shared_model,
    {"y": f(1.6)[0]},
    shared_guide,
    {"a.logits": 0.4, "b.table": f(0.3, -0.5, 0.8)},
    {"a": bits(), "b": table([0, 1, 2])},
)


def mixture_model(y):
    mu = sample("mu", dist.Normal(0.4, 1.1))
    with numpyro.plate("rows", 3):
        z = sample("z", dist.Bernoulli(0.35))
        sample("y", dist.Normal(mu + 1.8 * z, 0.8), obs=y)


def mixture_guide(y):
    sample("mu", dist.Normal(param("mu.loc", 0.0), jnp.exp(param("mu.scale", 0.0))))
    with numpyro.plate("rows", 3):
        sample("z", logits())


_MU = line(-4.0, 5.0, 160)
MIXTURE = Case(
    mixture_model,
    {"y": f(0.3, 1.9, -0.4)},
    mixture_guide,
    {"mu.loc": 0.5, "mu.scale": -0.6, "z.logits": f(0.4, -0.6, 1.1)},
    {"mu": _MU[0], "z": bits(3)},
    _MU[1],
)


def pair_model(y):
    z = sample("z", dist.Bernoulli(0.35))
    x = sample("x", dist.Normal(0.8 * z, 1.0))
    sample("y", dist.Normal(x + 0.5 * z, 0.8), obs=y)


def downstream_guide(y):
    """A pathwise draw after a discrete one."""
    z = sample("z", dist.Bernoulli(logits=param("l", 0.0)))
    sample(
        "x",
        dist.Normal(param("a", 0.0) + param("b", 0.0) * z, jnp.exp(param("s", 0.0))),
    )


def upstream_guide(y):
    """A discrete draw after a pathwise one, amortised."""
    x = sample("x", dist.Normal(param("a", 0.0) * y, jnp.exp(param("s", 0.0))))
    sample("z", dist.Bernoulli(logits=param("l", 0.0) + param("b", 0.0) * x))


_X = line(-6.0, 7.0, 240)
DOWNSTREAM = Case(
    pair_model,
    {"y": f(1.3)[0]},
    downstream_guide,
    {"l": 0.4, "a": 0.3, "b": 0.9, "s": -0.4},
    {"z": bits(), "x": _X[0]},
    _X[1],
    family=None,
)
UPSTREAM = DOWNSTREAM.but(guide=upstream_guide)

# --- continuous sites ----------------------------------------------------------------


def normal_model(y):
    mu = sample("mu", dist.Normal(0.4, 1.1))
    sample("y", dist.Normal(jnp.tanh(mu) + 0.3 * mu, 0.7), obs=y)


def normal_guide(y):
    sample("mu", dist.Normal(param("mu.loc", 0.0), jnp.exp(param("mu.scale", 0.0))))


NORMAL = Case(
    normal_model,
    {"y": f(1.2)[0]},
    normal_guide,
    {"mu.loc": 0.5, "mu.scale": -0.6},
    {"mu": line(-6.0, 7.0)[0]},
    line(-6.0, 7.0)[1],
)


def positive_model(y):
    mu = sample("mu", dist.Gamma(2.0, 1.5))
    sample("y", dist.Normal(mu, 0.7), obs=y)


def lognormal_guide(y):
    sample("mu", dist.LogNormal(param("mu.loc", 0.0), jnp.exp(param("mu.scale", 0.0))))


POSITIVE = NORMAL.but(
    model=positive_model,
    guide=lognormal_guide,
    params={"mu.loc": 0.1, "mu.scale": -0.8},
    grid={"mu": line(0.0, 20.0, 2000)[0]},
    cell=line(0.0, 20.0, 2000)[1],
)
GAMMA = POSITIVE.but(
    guide=lambda y: sample(
        "mu", dist.Gamma(jnp.exp(param("a", 0.0)), jnp.exp(param("b", 0.0)))
    ),
    params={"a": 1.3, "b": 1.0},
    family=None,
)


def unit_model(y):
    mu = sample("mu", dist.Beta(2.0, 3.0))
    sample("y", dist.Normal(2 * mu, 0.4), obs=y)


BETA = GAMMA.but(
    model=unit_model,
    guide=lambda y: sample(
        "mu", dist.Beta(jnp.exp(param("a", 0.0)), jnp.exp(param("b", 0.0)))
    ),
    params={"a": 1.1, "b": 1.5},
    grid={"mu": line(0.0, 1.0, 800)[0]},
    cell=line(0.0, 1.0, 800)[1],
)


def simplex_model(y):
    mu = sample("mu", dist.Dirichlet(jnp.array([2.0, 3.0, 1.5])))
    sample("y", dist.Normal(mu @ jnp.array([1.0, -0.5, 2.0]), 0.4), obs=y)


def simplex_grid(number=110):
    x, _ = line(0.0, 1.0, number)
    points = np.array([(a, b, 1 - a - b) for a in x for b in x if a + b < 0.99999])
    return points, -2 * math.log(number)


DIRICHLET = GAMMA.but(
    model=simplex_model,
    guide=lambda y: sample("mu", dist.Dirichlet(jnp.exp(param("a", jnp.zeros(3))))),
    params={"a": f(1.4, 1.7, 1.2)},
    grid={"mu": simplex_grid()[0]},
    cell=simplex_grid()[1],
)


def circle_model(y):
    mu = sample("mu", dist.VonMises(0.5, 1.0))
    sample("y", dist.Normal(jnp.sin(mu), 0.7), obs=y)


VONMISES = GAMMA.but(
    model=circle_model,
    guide=lambda y: sample(
        "mu", dist.VonMises(param("a", 0.0), jnp.exp(param("b", 0.0)))
    ),
    params={"a": 0.7, "b": 0.3},
    grid={"mu": line(-math.pi, math.pi)[0]},
    cell=line(-math.pi, math.pi)[1],
)


def cut_circle_model(y):
    mu = sample("mu", dist.VonMises(0.5, 1.0))
    sample("y", dist.Normal(mu, 1.3), obs=y)


CUT_CIRCLE = VONMISES.but(model=cut_circle_model)


def two_normals_guide(y):
    weights = dist.Categorical(logits=param("w", jnp.zeros(2)))
    parts = dist.Normal(param("a", jnp.zeros(2)), 0.6)
    sample("mu", dist.MixtureSameFamily(weights, parts))


MIXTURE_GUIDE = NORMAL.but(
    guide=two_normals_guide,
    params={"w": f(0.3, -0.4), "a": f(-0.8, 1.1)},
    family=None,
)


def step_model(y):
    mu = sample("mu", dist.Normal(0.3, 1.0))
    sample("y", dist.Bernoulli(jnp.where(mu > 0.5, 0.9, 0.2)), obs=y)


STEP = NORMAL.but(model=step_model, data={"y": np.array(1)})


def rounding_model(y):
    mu = sample("mu", dist.Gamma(2.0, 0.7))
    sample("y", dist.Poisson(jnp.round(mu) + 0.5), obs=y)


ROUNDING = GAMMA.but(
    model=rounding_model, data={"y": np.array(4)}, estimators={"mu": Score}
)


def location_scale_model(y):
    mu = sample("mu", dist.Normal(0.4, 1.1))
    sigma = sample("sigma", dist.Gamma(3.0, 2.0))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(mu, sigma), obs=y)


def location_scale_density(y, mu, log_sigma):
    sigma = jnp.exp(log_sigma)
    return (
        dist.Normal(0.4, 1.1).log_prob(mu)
        + dist.Gamma(3.0, 2.0).log_prob(sigma)
        + log_sigma
        + dist.Normal(mu[..., None], sigma[..., None]).log_prob(y).sum(-1)
    )


def full_rank_bound(params):
    nodes, weights = hermite(2)
    raw = params["_joint.scale_tril"]
    tril = dist.biject_to(dist.constraints.lower_cholesky)(raw)
    u = params["_joint.loc"] + nodes @ tril.T
    log_p = location_scale_density(LOCATION_SCALE_DATA["y"], u[:, 0], u[:, 1])
    return (
        weights @ log_p
        + jnp.sum(jnp.log(jnp.diagonal(tril)))
        + 1
        + math.log(2 * math.pi)
    )


LOCATION_SCALE_DATA = {"y": f(0.3, 1.9, -0.4)}
FULL_RANK = Case(
    location_scale_model,
    LOCATION_SCALE_DATA,
    None,
    {"_joint.loc": f(0.5, 0.2), "_joint.scale_tril": f(0.4, -0.9, -1.2)},
    family=guides.FullRank(),
    exact=full_rank_bound,
)


def mean_field_bound(params):
    nodes, weights = hermite(2)
    scales = jnp.exp(jnp.stack([params["mu.scale"], params["sigma.scale"]]))
    u = jnp.stack([params["mu.loc"], params["sigma.loc"]]) + nodes * scales
    log_p = location_scale_density(LOCATION_SCALE_DATA["y"], u[:, 0], u[:, 1])
    return weights @ log_p + jnp.sum(jnp.log(scales)) + 1 + math.log(2 * math.pi)


LOCATION_SCALE = FULL_RANK.but(
    params={"mu.loc": 0.5, "mu.scale": -0.7, "sigma.loc": 0.2, "sigma.scale": -1.0},
    family=guides.MeanField(),
    exact=mean_field_bound,
)


def moving_support_model(y):
    top = sample("top", dist.Gamma(4.0, 2.0))
    x = sample("x", dist.Uniform(0.0, top))
    sample("y", dist.Normal(x, 0.5), obs=y)


def moving_support_bound(params):
    nodes, weights = hermite(2)
    scales = jnp.exp(jnp.stack([params["top.scale"], params["x.scale"]]))
    u = jnp.stack([params["top.loc"], params["x.loc"]]) + nodes * scales
    top, share = jnp.exp(u[:, 0]), jax.nn.sigmoid(u[:, 1])
    log_p = (
        dist.Gamma(4.0, 2.0).log_prob(top)
        + u[:, 0]
        + jnp.log(share * (1 - share))
        + dist.Normal(top * share, 0.5).log_prob(0.8)
    )
    return weights @ log_p + jnp.sum(jnp.log(scales)) + 1 + math.log(2 * math.pi)


MOVING_SUPPORT = LOCATION_SCALE.but(
    model=moving_support_model,
    data={"y": f(0.8)[0]},
    params={"top.loc": 0.5, "top.scale": -0.7, "x.loc": 0.2, "x.scale": -0.3},
    exact=moving_support_bound,
)


def parameter_support_model(y):
    top = param("top", 1.0, constraint=dist.constraints.positive)
    x = sample("x", dist.Uniform(0.0, top))
    sample("y", dist.Normal(x, 0.5), obs=y)


def parameter_support_bound(params):
    nodes, weights = hermite(1)
    u = params["x.loc"] + nodes[:, 0] * jnp.exp(params["x.scale"])
    share = jax.nn.sigmoid(u)
    log_p = jnp.log(share * (1 - share)) + dist.Normal(
        jnp.exp(params["top"]) * share, 0.5
    ).log_prob(0.8)
    return weights @ log_p + params["x.scale"] + 0.5 + 0.5 * math.log(2 * math.pi)


PARAMETER_SUPPORT = MOVING_SUPPORT.but(
    model=parameter_support_model,
    params={"x.loc": 0.2, "x.scale": -0.3, "top": 0.7},
    exact=parameter_support_bound,
)


def by(case, **estimators_):
    return case.but(estimators=estimators_)


# {id: case}: every estimator in every situation that it supports.
GRADIENTS: dict[str, Case] = {
    "scalar, local": by(SCALAR, z=Local),
    "scalar, score of 1": by(SCALAR, z=Averaged).but(num_particles=1),
    "scalar, score of 2": by(SCALAR, z=Score).but(num_particles=2),
    "scalar, score of 4": by(SCALAR, z=Score),
    "scalar, summed out": SCALAR.but(summed=("z",)),
    "categorical, local": by(CATEGORICAL, z=Local),
    "categorical, score": by(CATEGORICAL, z=Score),
    "categorical, summed out": CATEGORICAL.but(summed=("z",)),
    "offset, local": by(OFFSET, z=Local),
    "offset, score": by(OFFSET, z=Score),
    "offset, summed out": OFFSET.but(summed=("z",)),
    "poisson": POISSON.but(samples=30_000),
    "poisson, score of 2": POISSON.but(num_particles=2, samples=40_000),
    "plate, local": by(PLATE, z=Local),
    "plate, score of 1": by(PLATE, z=Averaged).but(num_particles=1),
    "plate, score of 4": by(PLATE, z=Score),
    "plate, summed out": PLATE.but(summed=("z",)),
    "nested, local": by(NESTED, a=Local, b=Local),
    "nested, score": by(NESTED, a=Score, b=Score),
    "nested, score above local": by(NESTED, a=Score, b=Local),
    "nested, inner summed out": by(NESTED, a=Local, b=Marginalized),
    "nested, inner summed out, outer scored": by(NESTED, a=Score, b=Marginalized),
    "nested, summed out": NESTED.but(summed=("a", "b")),
    "no plate, local": by(NO_PLATE, z=Local),
    "no plate, score": by(NO_PLATE, z=Score),
    "event, local": by(EVENT, z=Local),
    "event, score": by(EVENT, z=Score),
    "scan, local": by(SCAN, z=Local),
    "scan, score of 1": by(SCAN, z=Averaged).but(num_particles=1, samples=40_000),
    "scan, summed out": SCAN.but(summed=("z",)),
    "scan, score of 2": by(SCAN, z=Score).but(num_particles=2),
    "loop, local": by(LOOP, z0=Local, z1=Local, z2=Local),
    "loop, score": by(LOOP, z0=Score, z1=Score, z2=Score),
    "loop, every other one summed out": by(LOOP, z0=Score, z1=Marginalized, z2=Local),
    "loop, summed out": LOOP.but(summed=("z0", "z1", "z2")),
    "autoregressive loop": AUTOREGRESSIVE_LOOP,
    "autoregressive scan": AUTOREGRESSIVE_SCAN,
    "scale 2, local": by(scaled_case(2.0), z=Local),
    "scale 2, score": by(scaled_case(2.0), z=Score),
    "scale 0.1, score of 1": by(scaled_case(0.1), z=Averaged).but(num_particles=1),
    "scale 2 of model and guide, local": by(scaled_pair(2.0), z=Local),
    "scale 2 of model and guide, score": by(scaled_pair(2.0), z=Score),
    "mask, local": by(MASKED, z=Local),
    "mask, score": by(MASKED, z=Score),
    "mask in a written guide, local": by(MASKED, z=Local).but(family=None),
    "mask in a written guide, score": by(MASKED, z=Score).but(family=None),
    "mask over events, local": by(MASKED_EVENT, z=Local),
    "mask over events, score": by(MASKED_EVENT, z=Score),
    "mask of the data": by(
        SCALAR.but(
            model=whole_mask_model,
            data={"y": f(1.1)[0], "use": np.array(True)},
            guide=lambda y, use: sample("z", logits()),
        ),
        z=Score,
    ),
    "mask of the data, summed out": SCALAR.but(
        model=whole_mask_model,
        data={"y": f(1.1)[0], "use": np.array(False)},
        guide=lambda y, use: sample("z", logits()),
        summed=("z",),
    ),
    "imputation, local": by(IMPUTATION, y_unobserved=Local),
    "imputation, score": by(IMPUTATION, y_unobserved=Score),
    "shared likelihood, local": by(SHARED, a=Local, b=Local),
    "shared likelihood, score": by(SHARED, a=Score, b=Score),
    "shared likelihood, one summed out": by(SHARED, a=Marginalized, b=Score).but(
        summed=("a",)
    ),
    "shared likelihood, summed out": SHARED.but(summed=("a", "b")),
    "shared likelihood, other summed out": by(SHARED, a=Local, b=Marginalized).but(
        summed=("b",)
    ),
    "minibatch of pairs, summed out": pairs(2),
    "mixture, local": by(MIXTURE, z=Local),
    "mixture, score": by(MIXTURE, z=Score),
    "mixture, both scored": by(MIXTURE, z=Score, mu=Score).but(samples=40_000),
    "mixture, summed out": MIXTURE.but(summed=("z",)),
    "mixture, summed out, mean scored": by(MIXTURE, mu=Score).but(summed=("z",)),
    "discrete upstream of pathwise": DOWNSTREAM,
    "discrete upstream of scored": by(DOWNSTREAM, x=Score),
    "discrete downstream, local": by(UPSTREAM, z=Local),
    "discrete downstream, score": by(UPSTREAM, z=Score),
    "discrete downstream of scored": by(UPSTREAM, x=Score, z=Local),
    "normal, pathwise": NORMAL,
    "normal, sticking the landing": by(NORMAL, mu=Landing),
    "normal, score": by(NORMAL, mu=Score),
    "positive, pathwise": POSITIVE.but(samples=30_000),
    "positive, sticking the landing": by(POSITIVE, mu=Landing).but(samples=30_000),
    "positive, score": by(POSITIVE, mu=Score).but(samples=80_000),
    "gamma, pathwise": GAMMA,
    "gamma, sticking the landing": by(GAMMA, mu=Landing),
    "gamma, score": by(GAMMA, mu=Score),
    "beta, pathwise": BETA,
    "beta, score": by(BETA, mu=Score),
    "dirichlet, pathwise": DIRICHLET,
    "dirichlet, sticking the landing": by(DIRICHLET, mu=Landing),
    "dirichlet, score": by(DIRICHLET, mu=Score),
    "von mises": VONMISES,
    "von mises, score": by(VONMISES, mu=Score),
    "von mises cut open": CUT_CIRCLE,
    "mixture as a guide": MIXTURE_GUIDE,
    "mixture as a guide, score": by(MIXTURE_GUIDE, mu=Score),
    "step, score": by(STEP, mu=Score),
    "rounding, score": ROUNDING,
    "full rank": FULL_RANK,
    "full rank, sticking the landing": by(FULL_RANK, mu=Landing, sigma=Landing),
    "mean field": LOCATION_SCALE.but(samples=40_000),
    "mean field, sticking the landing": by(LOCATION_SCALE, mu=Landing, sigma=Landing),
    "mean field, one scored": by(LOCATION_SCALE, sigma=Score).but(samples=40_000),
    "support of a parameter": PARAMETER_SUPPORT,
    "moving support": MOVING_SUPPORT.but(samples=20_000),
}
for _name, _case in COUPLED.items():
    GRADIENTS[f"coupled by {_name}, local"] = by(_case, z=Local)
    GRADIENTS[f"coupled by {_name}, score"] = by(_case, z=Score)
for _name, _case in WINDOWED.items():
    GRADIENTS[f"{_name}, local"] = by(_case, z=Local)
    GRADIENTS[f"{_name}, score"] = by(_case, z=Score)
    if _name not in ("grid", "strides", "torus", "ring"):
        GRADIENTS[f"{_name}, summed out"] = _case.but(summed=("z",))
GRADIENTS["late plate, summed out"] = LATE.but(summed=("z",))
GRADIENTS["late plate, local"] = by(LATE, z=Local)
GRADIENTS["late plate, score"] = by(LATE, z=Score)
GRADIENTS["grid, score"] = GRADIENTS["grid, score"].but(samples=40_000)
for _batch in (1, 2, 5):
    GRADIENTS[f"minibatch of {_batch}, local"] = by(minibatch(_batch), z=Local)
    GRADIENTS[f"minibatch of {_batch}, score"] = by(minibatch(_batch), z=Score)
    GRADIENTS[f"minibatch of {_batch}, written guide"] = by(
        minibatch(_batch), z=Score
    ).but(family=None)
    GRADIENTS[f"minibatch of {_batch}, summed out"] = minibatch(_batch).but(
        summed=("z",)
    )
for _batch in (1, 2, 4):
    GRADIENTS[f"mixed minibatch of {_batch}, local"] = by(
        mixed_minibatch(_batch), z=Local
    )
    GRADIENTS[f"mixed minibatch of {_batch}, score"] = by(
        mixed_minibatch(_batch), z=Score
    )


def partly(number):
    control = estimators.SumAndSample(num_values=number)
    return estimators.ScoreFunction(control_variate=control)


def amortised_model(y, batch=None):
    with numpyro.plate("rows", 6, batch) as index:
        z = sample("z", dist.Bernoulli(0.35))
        sample("y", dist.Normal(1.5 * z, 0.8), obs=y[index])


def amortised_guide(y, batch=None):
    slope, level = param("slope", 0.0), param("level", 0.0)
    with numpyro.plate("rows", 6, batch) as index:
        sample("z", dist.Bernoulli(logits=slope * y[index] + level))


_SIX = {"y": f(0.3, 1.9, -0.4, 1.1, 0.6, 2.4)}
AMORTISED = Case(
    amortised_model,
    _SIX,
    amortised_guide,
    {"slope": 0.8, "level": -0.3},
    {"z": bits(6)},
    family=None,
    num_particles=1,
    whole=_SIX,
    samples=30_000,
)

# Control variates by label, each with what it is sound for; Bernoulli sites first.
_BERNOULLI = {
    "scalar": SCALAR,
    "plate": PLATE,
    "nested": NESTED,
    "no plate": NO_PLATE,
    "event": EVENT,
    "loop": LOOP,
    "coupled by sum": COUPLED["sum"],
    "coupled by roll": COUPLED["roll"],
    "coupled by matrix": COUPLED["matrix"],
    "minibatch of 1": minibatch(1),
    "minibatch of 2": minibatch(2),
    "scale 2": scaled_case(2.0),
    "scale 2 of model and guide": scaled_pair(2.0),
    "mask": MASKED,
    "mask in a written guide": MASKED.but(family=None),
    "mask over events": MASKED_EVENT,
    "discrete upstream of pathwise": DOWNSTREAM,
    "mixture": MIXTURE.but(samples=30_000),
}
_ANY = {
    **_BERNOULLI,
    "categorical": CATEGORICAL,
    "poisson": POISSON.but(samples=40_000),
    "shared likelihood": SHARED,
    "discrete downstream": UPSTREAM,
    "scan": SCAN,
    "autoregressive loop": AUTOREGRESSIVE_LOOP,
    "normal": NORMAL,
}
_RELAXED = {
    **_BERNOULLI,
    "discrete downstream": UPSTREAM,
    "scan": SCAN,
    "autoregressive loop": AUTOREGRESSIVE_LOOP,
    "autoregressive scan": AUTOREGRESSIVE_SCAN,
}
_SEVERAL = {
    "categorical": CATEGORICAL,
    "offset": OFFSET,
    "poisson": POISSON.but(samples=40_000),
    "poisson of 1": POISSON.but(num_particles=1, samples=60_000),
    "shared likelihood": SHARED,
}
_DISCRETE = {
    **{n: c for n, c in _BERNOULLI.items() if "upstream" not in n},
    **_SEVERAL,
    "discrete downstream": UPSTREAM,
    "scan": SCAN,
    "grid": ISING,
}
_ROWS_APART = {
    "amortised": AMORTISED,
    "amortised minibatch of 4": AMORTISED.but(data={**_SIX, "batch": 4}),
    "amortised minibatch of 2": AMORTISED.but(data={**_SIX, "batch": 2}),
    "plate": PLATE.but(num_particles=1, samples=40_000),
    "scale 2": scaled_case(2.0).but(num_particles=2),
    "mask": MASKED.but(num_particles=1, samples=60_000),
}
_SCORED = {
    "nested": ("a", "b"),
    "loop": ("z0", "z1", "z2"),
    "autoregressive loop": ("z0", "z1", "z2"),
    "shared likelihood": ("a", "b"),
    "normal": ("mu",),
}
CONTROLLED: dict[str, Case] = {}
for _label, _estimator, _cases in (
    ("antithetic", Antithetic, _BERNOULLI),
    ("optimal scale", Scaled, _ANY),
    ("double control", Double, _RELAXED),
    ("one value summed", partly(1), _DISCRETE),
    ("two values summed", partly(2), _SEVERAL),
    ("learned baseline", Learned, _ROWS_APART),
):
    for _name, _case in _cases.items():
        CONTROLLED[f"{_name}, {_label}"] = _case.but(
            estimators=dict.fromkeys(_SCORED.get(_name, ("z",)), _estimator)
        )
for _number in (2, 3, 8):
    for _name in ("scalar", "coupled by matrix", "minibatch of 2"):
        CONTROLLED[f"{_name}, antithetic of {_number}"] = CONTROLLED[
            f"{_name}, antithetic"
        ].but(num_particles=_number)
CONTROLLED["scalar, optimal scale of 2"] = CONTROLLED["scalar, optimal scale"].but(
    num_particles=2
)
CONTROLLED["scalar, double control of 2"] = CONTROLLED["scalar, double control"].but(
    num_particles=2
)
GRADIENTS |= CONTROLLED
# The inner sites of these are summed out of the model.
for _name in ("nested, inner summed out", "nested, inner summed out, outer scored"):
    GRADIENTS[_name] = GRADIENTS[_name].but(summed=("b",))
_name = "loop, every other one summed out"
GRADIENTS[_name] = GRADIENTS[_name].but(summed=("z1",))

# What differs from another case in little: run with `-m slow`.
SLOW = {
    "mixture, local",
    "scalar, score of 1",
    "mask over events, local",
    "chain in reverse, summed out",
    "discrete downstream, local",
    "rounding, score",
    "von mises, score",
    "vectorised chain, score",
    "poisson",
    "scalar, local",
    "categorical, local",
    "nested, local",
    "nested, inner summed out",
    "no plate, local",
    "scan, score of 2",
    "loop, every other one summed out",
    "autoregressive loop",
    "scale 2 of model and guide, local",
    "mask, local",
    "discrete upstream of scored",
    "von mises cut open",
    "mixture as a guide, score",
    "chain, local",
    "chain in reverse, score",
    "vectorised chain, local",
    "strides, score",
    "torus, score",
    "minibatch of 2, score",
    "mixed minibatch of 1, score",
    "scalar, score of 2",
    "categorical, score",
    "offset, score",
    "offset, summed out",
    "poisson, score of 2",
    "beta, pathwise",
    "dirichlet, pathwise",
    "late plate, local",
    "minibatch of 2, local",
    "plate, score of 1",
    "nested, score above local",
    "nested, inner summed out, outer scored",
    "event, score",
    "scan, score of 1",
    "loop, local",
    "scale 2, local",
    "scale 0.1, score of 1",
    "mask in a written guide, score",
    "mask of the data",
    "imputation, score",
    "shared likelihood, local",
    "shared likelihood, other summed out",
    "mixture, score",
    "mixture, both scored",
    "mixture, summed out, mean scored",
    "discrete downstream of scored",
    "normal, score",
    "positive, pathwise",
    "gamma, sticking the landing",
    "beta, score",
    "dirichlet, sticking the landing",
    "dirichlet, score",
    "full rank, sticking the landing",
    "mean field, sticking the landing",
    "mean field, one scored",
    "coupled by matrix, local",
    "coupled by matrix, score",
    "coupled by flip, local",
    "coupled by flip, score",
    "coupled by sum, local",
    "minibatch of 1, local",
    "minibatch of 5, local",
    "minibatch of 5, score",
    "minibatch of 1, written guide",
    "minibatch of 5, written guide",
    "minibatch of 1, summed out",
    "minibatch of 5, summed out",
    "mixed minibatch of 1, local",
    "mixed minibatch of 2, local",
    "mixed minibatch of 4, local",
    "mixed minibatch of 4, score",
    "torus, local",
    "coupled by roll, score",
    "gamma, score",
    "nested, score",
    "loop, score",
    "scan, local",
    "grid, score",
    "late plate, score",
    "positive, score",
    "shared likelihood, score",
    "shifted plate, local",
}
SLOW |= CONTROLLED.keys() - {
    "scalar, antithetic of 2",
    "no plate, antithetic",
    "coupled by matrix, antithetic",
    "minibatch of 1, antithetic",
    "coupled by matrix, optimal scale",
    "normal, optimal scale",
    "scalar, double control of 2",
    "coupled by matrix, double control",
    "minibatch of 2, double control",
    "mask over events, double control",
    "coupled by matrix, one value summed",
    "minibatch of 1, one value summed",
    "amortised, learned baseline",
    "amortised minibatch of 4, learned baseline",
    "mask, learned baseline",
}
assert GRADIENTS.keys() >= SLOW
