"""A factor that ends in a sum is the costs that it adds up, and no other is."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import bbvi
from bbvi.analysis.tracing import log_density, run, scaled
from tests.cases import sample

Z = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
WEIGHTS = jnp.array([0.5, -1.0, 2.0])


def squared(x, times):
    """Each square has two ways back to x."""
    for _ in range(times):
        x = x * x
    return x


# The factor as a function of z, (3, 4), and the shape of its costs.
FACTORS = {
    "sum": (lambda z: jnp.sum(z**2), (3, 4)),
    "method": (lambda z: (z**3).sum(), (3, 4)),
    "minus": (lambda z: -jnp.sum(z**2), (3, 4)),
    "times": (lambda z: -0.5 * jnp.sum(z**2), (3, 4)),
    "times on the right": (lambda z: jnp.sum(z) * 3, (3, 4)),
    "over": (lambda z: jnp.sum(z[1:] * z[:-1]) / 7, (2, 4)),
    "mean": (lambda z: jnp.mean(z**2), (3, 4)),
    "times a latent": (lambda z: jnp.sum(z[1:]) * z[0, 0], (2, 4)),
    "several factors": (lambda z: 2 * (-jnp.sum(z**2) / z[0, 0]), (3, 4)),
    "last axis": (lambda z: jnp.sum(z**2, -1), (3, 4)),
    "first axis": (lambda z: jnp.sum(z**2, 0), (4, 3)),
    "weighted rows": (lambda z: WEIGHTS * jnp.sum(z, 1), (3, 4)),
    "rows over rows": (lambda z: jnp.sum(z, 1) / (1 + z[:, 0] ** 2), (3, 4)),
    "whole numbers": (lambda z: jnp.sum(z > 0) * 1.0, ()),
    "offset": (lambda z: jnp.sum(z) + 1.0, ()),
    "one over": (lambda z: 1.0 / jnp.sum(z**2), ()),
    "function of a sum": (lambda z: jnp.tanh(jnp.sum(z)), ()),
    "power by squaring": (lambda z: squared(z[0, 0] / 2, 40), ()),
    "no sum": (lambda z: z**2, (3, 4)),
    "constant": (lambda z: jnp.float32(2.0), ()),
}


def model_of(function):
    def model():
        z = sample("z", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
        numpyro.factor("f", function(z))

    return model


def costs_of(model, z):
    site = run(model, {}, jax.random.key(0), {"z": z})["f"]
    return scaled(log_density(site), site)


@pytest.mark.parametrize("name", FACTORS)
def test_costs_add_up_to_the_factor(name):
    function, shape = FACTORS[name]
    model = model_of(function)
    assert bbvi.analyze(model, {}).shapes["f"] == shape

    def total(z):
        return costs_of(model, z).sum()

    def both(function):
        return jax.jit(jax.vmap(jax.value_and_grad(function)))(np.stack([Z, 2 * Z]))

    for found, exact in zip(
        both(total), both(lambda z: function(z).sum()), strict=True
    ):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_scale_and_plate_stay_those_of_the_rows():
    def model():
        z = sample("z", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
        with numpyro.plate("rows", 3), handlers.scale(scale=WEIGHTS**2):
            numpyro.factor("f", jnp.sum(z**2, -1))

    found = costs_of(model, Z)
    np.testing.assert_allclose(found, WEIGHTS[:, None] ** 2 * Z**2, rtol=1e-6)


def test_what_a_mask_hides_is_not_taken_apart():
    def model():
        z = sample("z", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
        with numpyro.plate("rows", 3), handlers.mask(mask=WEIGHTS > 0):
            numpyro.factor("f", jnp.sum(z**2, -1))

    found = costs_of(model, Z)
    np.testing.assert_allclose(found, (WEIGHTS > 0) * (Z**2).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("shape", [pytest.param((4,), marks=pytest.mark.slow), (3, 4)])
def test_a_pair_potential_that_is_summed_is_summed_out_or_coloured(shape):
    """A chain is summed out, exactly; a grid has two colours."""

    def model():
        prior = dist.Bernoulli(0.4).expand(shape).to_event(len(shape))
        z = sample("z", prior) * 1.0
        numpyro.factor("along", 0.8 * jnp.sum(z[..., 1:] * z[..., :-1]))
        if len(shape) == 2:
            numpyro.factor("down", -1.1 * jnp.sum(z[1:] * z[:-1]))

    plan = bbvi.plan(model, {})
    choice = plan.choices["z"]
    if len(shape) == 2:
        assert "coupled elements in 2 colours" in choice.reason
        return
    assert choice.estimator == bbvi.estimators.Marginalized()
    states = np.stack(np.meshgrid(*[[0, 1]] * 4), -1).reshape(-1, 4)
    prior = dist.Bernoulli(0.4).log_prob(states).sum(-1)
    pairs = 0.8 * (states[:, 1:] * states[:, :-1]).sum(-1)
    value, _ = bbvi.loss(plan)({}, jax.random.key(0), {})
    np.testing.assert_allclose(-value, jax.nn.logsumexp(prior + pairs), rtol=1e-5)
