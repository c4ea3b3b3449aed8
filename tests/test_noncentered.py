"""`NonCentered` is `FullRank` on the model that NumPyro's reparameterisation writes.

Both have the same parameters and the same noise, so bound, gradient, mode and draws
agree to rounding, not only on average.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam

import bbvi
import models
from bbvi import guides
from bbvi.drawing import log_joint
from bbvi.guides.noncentered import noncentrable
from bbvi.planning import PlanError
from tests.cases import f, sample
from tests.test_gradients import QUICKLY

Y, X = f(2.8, 0.8, -0.3, 0.7), f(-1.0, 0.4, 0.2, 1.3)
DATA = {"y": Y, "x": X}


def model(y, x):
    """Intercepts below means below a mean; slopes; a scale of the rows' own."""
    mu = sample("mu", dist.Normal(0.0, 2.0))
    tau = sample("tau", dist.HalfCauchy(1.0))
    slope = sample("slope", dist.StudentT(4.0, mu, 0.7).expand([2]).to_event(1))
    with numpyro.plate("rows", 4):
        scale = sample("scale", dist.Gamma(2.0, 2.0))
        a = sample("a", dist.Normal(mu, tau))
        b = sample("b", dist.Laplace(a * slope[0], scale))
        sample("y", dist.Normal(b + slope[1] * x, 1.0), obs=y)


SITES = ("slope", "a", "b")
FAMILY = guides.NonCentered(SITES)


def rewritten(**kwargs):
    config = {
        name: LocScaleReparam(0, shape_params=["df"] if name == "slope" else ())
        for name in SITES
    }
    return handlers.reparam(model, config=config)(**kwargs)


def params_like(plan):
    start = jax.jit(plan.init, compiler_options=QUICKLY)(jax.random.key(0))
    moves = {n: 0.3 * jnp.sin(1.0 + jnp.arange(x.size)) for n, x in start.items()}
    return {n: x + moves[n].reshape(x.shape) for n, x in start.items()}


@pytest.fixture(scope="module")
def both():
    ours = bbvi.plan(model, DATA, guide=FAMILY, num_particles=3)
    numpyros = bbvi.plan(rewritten, DATA, guide=guides.FullRank(), num_particles=3)
    return ours, numpyros


def slope_of(plan, params):
    slope = jax.value_and_grad(bbvi.loss(plan), has_aux=True)
    compiled = jax.jit(slope, compiler_options=QUICKLY)
    return compiled(params, jax.random.key(1), DATA)


def test_bound_and_gradient_are_those_of_the_rewritten_model(both):
    ours, numpyros = both
    params = params_like(ours)
    (value, _), slope = slope_of(ours, params)
    (expected, _), expected_slope = slope_of(numpyros, params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name, found in slope.items():
        np.testing.assert_allclose(found, expected_slope[name], rtol=1e-3, atol=1e-4)


class Forgetful(guides.NonCentered):
    """A negative control: its sites have no Jacobian."""

    def _place(self, *arguments):
        with handlers.block():
            value = super()._place(*arguments)
        site = arguments[1]
        return sample(site.name, dist.Delta(value, event_dim=site.event_dim))


def test_control_that_forgets_the_jacobian(both):
    wrong = bbvi.plan(model, DATA, guide=Forgetful(SITES), num_particles=3)
    params = params_like(wrong)
    found = [slope_of(plan, params)[1]["_joint.loc"] for plan in (both[1], wrong)]
    assert np.abs(found[0] - found[1]).max() > 1


def test_the_mode_is_sought_in_its_own_coordinates(both):
    ours, numpyros = both
    at = jnp.sin(jnp.arange(16.0))
    centred = bbvi.plan(model, DATA, guide=guides.FullRank())
    params = params_like(ours)
    joints = [
        log_joint(plan, tuple(plan.analysis.latents), params, DATA)
        for plan in (ours, numpyros, centred)
    ]
    found = [jax.jit(fn, compiler_options=QUICKLY)(at)[0] for fn in joints]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert abs(found[2] - found[0]) > 1


def loop(y, x):
    """A walk site by site: each stands relative to the one before it."""
    sigma = sample("sigma", dist.HalfNormal(1.0))
    z = 0.0
    for t in range(4):
        z = sample(f"z{t}", dist.Normal(z, sigma))
        sample(f"y{t}", dist.Normal(z, 1.0), obs=y[t])


def walk(y, x):
    sigma = sample("sigma", dist.HalfNormal(1.0))

    def step(z, y):
        z = sample("z", dist.Normal(z, sigma))
        sample("y", dist.Normal(z, 1.0), obs=y)
        return z, None

    scan(step, jnp.zeros(()), y)


def fixed(y, x):
    """Nothing determines the scale or the location of the effects."""
    tau = sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("rows", 4):
        a = sample("a", dist.Normal(0.0, 1.0))
        b = sample("b", dist.Gamma(2.0, tau))
        sample("y", dist.Normal(a, b * tau), obs=y)


@pytest.mark.parametrize(
    ("program", "sites"),
    [(model, SITES), (loop, ("z0", "z1", "z2", "z3")), (walk, ()), (fixed, ())],
)
def test_sites_that_can_stand_relative_to_their_priors(program, sites):
    analysis = bbvi.analyze(program, DATA)
    assert noncentrable(analysis, tuple(analysis.latents)) == sites


def test_other_sites_are_refused():
    with pytest.raises(PlanError, match=r"'tau' is no site of q.*use \('slope'"):
        bbvi.plan(model, DATA, guide=guides.NonCentered(("tau",)))
    with pytest.raises(PlanError, match=r"'w' is no site of q"):
        bbvi.plan(model, DATA, guide=guides.NonCentered(("a", "w")))
    with pytest.raises(PlanError, match=r"'z' is no site of q.*use FullRank\(\)"):
        bbvi.plan(walk, DATA, guide=guides.NonCentered(("z",)))


def test_a_fit_moves_to_it_when_k_hat_asks_for_it():
    """Eight schools, centred; `test_zoo` holds the answer against the reference."""
    zoo = models.load("eight_schools_centered")
    fit = bbvi.fit(zoo.model, zoo.data(), progress=False)
    assert fit.plan.guide == guides.NonCentered(("theta",))
    assert fit.plan.guide_reason.startswith("FullRank() could not carry")
    assert fit.verdict.level is not bbvi.Level.DO_NOT_TRUST
    poor, rich = fit.history.path
    assert poor.startswith("FullRank(): ELBO -32.")
    assert rich.startswith("NonCentered(sites=('theta',)): ELBO -31.")
