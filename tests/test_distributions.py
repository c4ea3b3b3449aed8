"""Every distribution of NumPyro as a latent of a model and as a factor of a guide.

The table is `tests/distributions.py`. Gradients are compared with exact ones: in one
dimension the bound is a sum over a grid, in several a moment is known.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import bbvi
from bbvi import estimators
from tests import distributions
from tests.distributions import GROUPS, ROWS
from tests.statistics import assert_unbiased
from tests.test_gradients import QUICKLY

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs/explanation/distributions.md"
PARTLY = estimators.ScoreFunction(control_variate=estimators.SumAndSample())
ESTIMATORS = {
    "pathwise": estimators.Reparameterized(),
    "implicit": estimators.Reparameterized(),
    "circle": estimators.Reparameterized(),
    "moving": estimators.Reparameterized(),
    "point": estimators.Reparameterized(),
    "local": estimators.LocalExpectation(),
    "score": estimators.ScoreFunction(),
}
IN_Q = {
    "normal": estimators.Reparameterized(),
    "summed": estimators.Marginalized(),
    "counts": PARTLY,
    "binomial": estimators.ScoreFunction(),
    "multinomial": estimators.ScoreFunction(),
}

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)


def latent_model(*rows):
    """All rows as latents, each with an observation of its own."""

    def model():
        for i, row in enumerate(rows):
            z = numpyro.sample(f"z{i}", row())
            mean = jnp.sum(jnp.tanh(0.3 * z))
            numpyro.sample(f"y{i}", dist.Normal(mean, 1.0), obs=0.7)

    return model


def free_model(*rows):
    """Latents without a density of their own where that is possible."""

    def model():
        for i, row in enumerate(rows):
            fn = row()
            if row.factor in ("score", "local", "refused"):
                numpyro.sample(f"z{i}", fn)
            else:
                shape = fn.shape()
                support = constraints.independent(constraints.real, len(fn.event_shape))
                free = dist.ImproperUniform(support, fn.batch_shape, fn.event_shape)
                assert free.shape() == shape
                numpyro.sample(f"z{i}", free)

    return model


def param_guide(*rows):
    """All rows as factors, their parameters those of the guide."""

    def guide():
        for i, row in enumerate(rows):
            params = {
                name: numpyro.param(
                    f"z{i}.{name}", jnp.asarray(value), constraint=row.constraint(name)
                )
                for name, value in row.params.items()
            }
            numpyro.sample(f"z{i}", row(**params))

    return guide


def test_every_distribution_is_classified():
    assert {row.name for row in ROWS} == distributions.exported()
    keys = [row.key for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_documentation_shows_the_table():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert distributions.markdown() in text, "run python -m tests.distributions"


@every_row
def test_latent(row):
    if row.latent == "refused":
        with pytest.raises(ValueError, match="z0|cannot be run") as caught:
            bbvi.plan(latent_model(row))
        assert row.words[0] in str(caught.value)
        return
    choice = bbvi.plan(latent_model(row)).choices["z0"]
    assert choice.estimator == IN_Q[row.latent]


@every_row
def test_factor(row):
    model, guide = free_model(row), param_guide(row)
    if row.factor == "refused":
        if row.latent == "refused":
            model = free_model(distributions.row("Normal", distributions.LOCATION))
        with pytest.raises(ValueError, match="guide") as caught:
            bbvi.plan(model, guide=guide)
        assert row.words[1] in str(caught.value)
        return
    choice = bbvi.plan(model, guide=guide).choices["z0"]
    is_count = row.latent == "counts" and row.factor == "score"
    assert choice.estimator == (PARTLY if is_count else ESTIMATORS[row.factor])
    scored = estimators.ScoreFunction()
    if row.factor in ("moving", "point"):
        assert "may depend on parameters" in choice.rejected[scored]
    elif scored in choice.rejected:
        assert "preferred" in choice.rejected[scored]


# --- exact gradients ---------------------------------------------------------------


def cost(row, z):
    """Smooth, bounded and lopsided; on the circle it has no end."""
    if row.factor == "circle":
        return jnp.sin(z + 0.4) + 0.5 * jnp.cos(2 * z)
    return jnp.tanh(0.8 * z - 0.3) + 0.5 / (1 + (z - 1.0) ** 2)


def costly(*rows):
    """`free_model` with a cost for every latent."""
    free = free_model(*rows)

    def model():
        with numpyro.handlers.trace() as seen:
            free()
        for i, row in enumerate(rows):
            numpyro.factor(f"f{i}", cost(row, seen[f"z{i}"]["value"]))

    return model


def grid_of(support):
    """Unconstrained numbers, the logarithms of their cells; nothing if discrete."""
    v = np.linspace(-1.0, 1.0, 12_001, dtype=np.float32)
    if support is constraints.real:
        u, slope = np.sinh(12 * v), 12 * np.cosh(12 * v)
    elif isinstance(support, constraints.interval):
        u, slope = 14 * v, np.full_like(v, 14.0)
    else:
        u, slope = 30 * v, np.full_like(v, 30.0)
    return u, np.log(slope * (v[1] - v[0]))


def integrand(row, params, u, cell):
    """Log of q times the cell, and the cost of every point, moving with the support."""
    fn = row(**{n: dist.biject_to(row.constraint(n))(x) for n, x in params.items()})
    if fn.support.is_discrete:
        z, weight = u, 0.0
    else:
        transform = dist.biject_to(fn.support)
        z = transform(u)
        weight = transform.log_abs_det_jacobian(u, z) + cell
        if row.latent == "refused":
            z, weight = jnp.append(z, 0.0), jnp.append(weight, 0.0)
    log_q = fn.log_prob(z)
    prior = row().log_prob(z) if row.factor in ("score", "local") else 0.0
    return log_q + weight, cost(row, z) + prior - log_q


def exact_gradients(rows, params):
    """Of the bound, a sum over a grid or over the support of each site."""
    own = [{n: params[f"z{i}.{n}"] for n in row.params} for i, row in enumerate(rows)]
    grids = []
    for row in rows:
        support = row().support
        if support.is_discrete:
            low = getattr(support, "lower_bound", 0)
            high = getattr(support, "upper_bound", 200)
            values = np.arange(low, 2 if support is constraints.boolean else high + 1)
            grids.append((values, np.zeros(values.shape)))
        else:
            grids.append(grid_of(support))
    masses = jax.jit(
        lambda own: [
            integrand(*of, *grid)[0]
            for of, grid in zip(zip(rows, own, strict=True), grids, strict=True)
        ]
    )(own)
    kept = [
        np.asarray(m)[: len(u)] > -60 for m, (u, _) in zip(masses, grids, strict=True)
    ]
    grids = [(u[k], c[k]) for (u, c), k in zip(grids, kept, strict=True)]

    def total(own):
        both = (
            integrand(*of, *grid)
            for of, grid in zip(zip(rows, own, strict=True), grids, strict=True)
        )
        return sum(jnp.sum(jnp.exp(mass) * value) for mass, value in both)

    return jax.jit(jax.grad(total))(own)


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=pytest.mark.slow)
        for group in (
            "implicit",
            "one-dimensional",
            "moving",
            "scored",
            "finite",
            "countable",
        )
    ],
)
def test_gradient(group):
    """Of a bound in every parameter of every family in one dimension."""
    rows = [row for row in GROUPS[group] if row.params]
    plan = bbvi.plan(costly(*rows), guide=param_guide(*rows), num_particles=4)
    params = jax.tree.map(
        lambda x: x + 0.2 / (1 + jnp.arange(x.size)).reshape(x.shape),
        jax.jit(plan.init, compiler_options=QUICKLY)(jax.random.key(0)),
    )
    loss = bbvi.loss(plan)
    keys = jax.random.split(jax.random.key(1), 5_000 if group == "implicit" else 16_000)
    slope = jax.jit(
        jax.vmap(lambda key: jax.grad(lambda p: -loss(p, key, {})[0])(params)),
        compiler_options=QUICKLY,
    )
    drawn = slope(keys)
    for i, (row, exact) in enumerate(
        zip(rows, exact_gradients(rows, params), strict=True)
    ):
        found = np.concatenate(
            [drawn[f"z{i}.{n}"].reshape(len(keys), -1) for n in exact], 1
        )
        wanted = np.concatenate([np.ravel(x) for x in exact.values()])
        largest = max(np.abs(wanted).max(), 0.3)
        try:
            assert_unbiased(
                found, wanted, detectable=0.25 * largest, rounding=2e-4 * largest
            )
        except AssertionError as error:
            raise AssertionError(f"{row.key}: {error}") from error
