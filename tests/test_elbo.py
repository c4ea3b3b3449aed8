"""`bbvi.ELBO` as a loss of NumPyro's SVI: one step of SGD shows the gradient.

Where NumPyro's own losses miss the exact gradient is in `tests/test_silent_errors.py`.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import SVI, Predictive, autoguide
from numpyro.infer.calibration import vsbc_diagnostic
from numpyro.primitives import mutable

import bbvi
from bbvi import PlanError
from bbvi.estimators import (
    LocalExpectation,
    Marginalized,
    Reparameterized,
    ScoreFunction,
)
from tests import cases
from tests.statistics import assert_unbiased
from tests.test_gradients import QUICKLY, demands, exact_of, params_of

sample, param = numpyro.sample, numpyro.param
RATE = 0.5


def data_of(case):
    return {n: jnp.asarray(x) if np.ndim(x) else x for n, x in case.data.items()}


def svi_of(case, loss=None):
    """Model and written guide of a case; what is summed out is hidden in the guide."""
    loss = loss or bbvi.ELBO(case.num_particles, estimators=case.estimators)
    guide = handlers.block(case.guide, hide=[*case.summed]) if case.summed else None
    return SVI(case.model, guide or case.guide, numpyro.optim.SGD(RATE), loss)


def draws_of(case, loss=None, samples=None):
    """Bound and gradient by each of many keys, read off SVI's own update."""
    svi, data, params = svi_of(case, loss), data_of(case), params_of(case)
    state = svi.init(jax.random.key(0), **data, init_params=params)

    def one(key):
        moved, value = svi.update(state._replace(rng_key=key), **data)
        after = svi.optim.get_params(moved.optim_state)
        slope = {n: (params[n] - after[n]) / RATE for n in params}
        flat, _ = jax.flatten_util.ravel_pytree(slope)
        return jnp.concatenate([-value[None], -flat])

    keys = jax.random.split(jax.random.key(1), samples or case.samples)
    return np.asarray(jax.jit(jax.vmap(one), compiler_options=QUICKLY)(keys))


def written(name, **changes):
    return cases.GRADIENTS[name].but(family=None, **changes)


def slowly(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    "name",
    [
        "loop, every other one summed out",
        *slowly(
            "von mises",
            "categorical, local",
            "plate, score of 4",
            "nested, inner summed out",
            "mask in a written guide, local",
            "discrete upstream of pathwise",
            "gamma, pathwise",
            "minibatch of 2, summed out",
        ),
    ],
)
def test_gradient_through_svi_is_unbiased(name):
    case = written(name)
    exact = exact_of(case)
    assert_unbiased(draws_of(case), exact, **demands(case, exact))


def test_gradient_of_the_model_s_own_parameters():
    """Everything summed out: one update is the exact gradient."""
    case = written("categorical, summed out")
    case = case.but(params={"m": case.params["m"]}, guide=lambda y: None)
    exact = exact_of(case)
    np.testing.assert_allclose(draws_of(case, samples=3), [exact] * 3, rtol=1e-4)


# --- what is chosen ------------------------------------------------------------------


def plan_of(case, guide=None, **options):
    loss = bbvi.ELBO(**options)
    return loss.plan(params_of(case), case.model, guide or case.guide, **data_of(case))


def test_a_site_that_the_guide_leaves_out_is_summed_out():
    case = cases.MIXTURE
    drawn = plan_of(case)
    assert drawn.choices["z"].estimator == LocalExpectation()
    left_out = plan_of(case, handlers.block(case.guide, hide=["z"]))
    assert left_out.choices["z"].estimator == Marginalized()
    assert left_out.choices["mu"].estimator == Reparameterized()


def test_a_site_that_can_neither_be_summed_out_nor_drawn():
    case = cases.POISSON
    with pytest.raises(
        PlanError, match=r"'z' \(Poisson\) has no statement in <lambda>"
    ):
        plan_of(case, lambda y: None)


def hinge(y):
    """A look-alike: continuous, but one branch jumps if the data choose it."""
    mu = sample("mu", dist.Normal(0.3, 1.0))
    step, smooth = jnp.where(mu > 0.5, 1.0, -1.0), jnp.where(mu > 0.5, mu, 0.5)
    sample("y", dist.Normal(jnp.where(y < 0, step, smooth), 1.0), obs=y)


@pytest.mark.parametrize(("y", "kind"), [(-1.0, ScoreFunction), (1.0, Reparameterized)])
def test_jumps_are_settled_where_the_data_are_known(y, kind):
    loss, params = bbvi.ELBO(), {"mu.loc": 0.0, "mu.scale": 0.0}
    within = []

    @jax.jit
    def planned(y):
        within.append(loss.plan(params, hinge, cases.normal_guide, y))
        return y

    known = loss.plan(params, hinge, cases.normal_guide, jnp.array(y))
    planned(jnp.array(y))
    assert isinstance(known.choices["mu"].estimator, kind)
    assert isinstance(within[0].choices["mu"].estimator, ScoreFunction)


def test_overrides_and_particles():
    plan = plan_of(cases.PLATE, estimators={"z": cases.Score})
    assert plan.choices["z"].estimator == cases.Score
    assert plan.num_particles == 8
    assert "Plan for tests.cases.plate_model" in repr(plan)
    assert plan_of(cases.PLATE, num_particles=3).num_particles == 3
    with pytest.raises(PlanError, match="num_particles must be at least 1"):
        plan_of(cases.PLATE, num_particles=0)
    with pytest.raises(PlanError, match="'w', which is no latent site"):
        plan_of(cases.PLATE, estimators={"w": ScoreFunction()})


def test_arguments_go_where_the_caller_puts_them():
    """Positional ones under other names in the guide, nested, static and default."""

    def model(data, *more, number, scale=1.0, label="a"):
        assert label == "b"
        mu = sample("mu", dist.Normal(more[0], scale))
        with numpyro.plate("rows", number):
            sample("y", dist.Normal(mu, 1.0), obs=data["y"][0])

    def guide(observed, start, number, **rest):
        sample("mu", dist.Normal(param("m", start), 0.5))

    svi = SVI(model, guide, numpyro.optim.SGD(0.1), bbvi.ELBO(), label="b")
    args = ({"y": [jnp.array([0.5, 1.0, 2.0])]}, 0.3)
    state = svi.init(jax.random.key(0), *args, number=3)
    eager, first = svi.update(state, *args, number=3)
    jitted = jax.jit(svi.update, static_argnames="number")
    traced, second = jitted(state, *args, number=3)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    found = [svi.get_params(moved)["m"] for moved in (eager, traced)]
    assert found[0] == pytest.approx(found[1])


def test_a_model_may_use_the_values_of_its_data_as_constants():
    """As in `svi.run`, whose arguments are no tracers."""

    def model(group, y):
        number = int(group.max()) + 1
        mu = sample("mu", dist.Normal(0, 1).expand([number]).to_event(1))
        sample("y", dist.Normal(mu[group], 1.0).to_event(1), obs=y)

    def guide(group, y):
        number = int(group.max()) + 1
        loc = param("m", jnp.zeros(number))
        sample("mu", dist.Normal(loc, 0.5).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(0.1), bbvi.ELBO())
    group, y = np.array([0, 2, 1]), np.array([0.1, 0.2, 2.0])
    result = svi.run(jax.random.key(0), 50, group, y, progress_bar=False)
    assert result.params["m"].shape == (3,)
    with pytest.raises(ValueError, match="uses the value of a latent or of a data arr"):
        jax.jit(svi.update)(result.state, group, y)


def test_a_plan_is_made_once_for_each_shape(monkeypatch):
    made = []
    honest = bbvi.elbo.make_plan
    monkeypatch.setattr(
        bbvi.elbo, "make_plan", lambda *args: made.append(args) or honest(*args)
    )
    svi = svi_of(cases.SCALAR)
    update = jax.jit(svi.update)
    state = svi.init(jax.random.key(0), y=1.0)
    for y in (1.0, 2.0, 3.0):
        state, _ = update(state, y=jnp.asarray(y))
    svi.run(jax.random.key(0), 3, y=jnp.ones(()), progress_bar=False)
    y, params = jnp.ones(()), svi.get_params(state)
    plans = [svi.loss.plan(params, svi.model, svi.guide, y=y) for _ in range(3)]
    assert plans[0] is plans[2]
    assert len(made) == 3, "traced, and two arrays that are constants"


def test_few_plans_are_kept(monkeypatch):
    monkeypatch.setattr(bbvi.elbo, "KEPT", 2)
    svi = svi_of(cases.SCALAR)
    first, *_ = plans = [
        svi.loss.plan({"z.logits": 0.0}, svi.model, svi.guide, y)
        for y in (0.0, 1.0, 2.0, 1.0)
    ]
    assert plans[1] is plans[3]
    assert len(svi.loss._plans) == 2
    assert first not in svi.loss._plans.values()


def test_no_tracer_is_left_behind():
    svi, data = svi_of(cases.PLATE), data_of(cases.PLATE)
    with jax.checking_leaks():
        state = svi.init(jax.random.key(0), **data)
        jax.jit(svi.update)(state, **data)
    (plan,) = svi.loss._plans.values()
    leaves = jax.tree.leaves((plan.analysis.arguments.arrays, plan.nodes))
    assert not [x for x in leaves if isinstance(x, jax.core.Tracer)]


# --- what NumPyro brings along -------------------------------------------------------


def autoguide_draws(svi, data, bound, samples):
    """Gradients by many keys, and that of the bound, in unconstrained parameters."""
    state = svi.init(jax.random.key(3), **data)
    before = svi.optim.get_params(state.optim_state)

    def one(key):
        moved, _ = svi.update(state._replace(rng_key=key), **data)
        after = svi.optim.get_params(moved.optim_state)
        slope = jax.tree.map(lambda a, b: (b - a) / RATE, before, after)
        return jax.flatten_util.ravel_pytree(slope)[0]

    keys = jax.random.split(jax.random.key(1), samples)
    exact = jax.grad(lambda params: bound(svi.constrain_fn(params)))(before)
    exact, _ = jax.flatten_util.ravel_pytree(exact)
    return np.asarray(jax.jit(jax.vmap(one))(keys)), np.asarray(exact)


def bound_of_autoguide(params):
    """The exact bound by the constrained parameters of three AutoGuides."""
    if "auto_scale_tril" in params:
        to_tril = dist.biject_to(dist.constraints.lower_cholesky)
        tril = to_tril.inv(params["auto_scale_tril"])
        inner = {"_joint.loc": params["auto_loc"], "_joint.scale_tril": tril}
        return cases.full_rank_bound(inner)
    if "auto_loc" in params:
        loc, scale = params["auto_loc"], params["auto_scale"]
    else:
        loc = [params[f"{n}_auto_loc"] for n in ("mu", "sigma")]
        scale = [params[f"{n}_auto_scale"] for n in ("mu", "sigma")]
    inner = {"mu.loc": loc[0], "sigma.loc": loc[1]}
    inner |= {"mu.scale": jnp.log(scale[0]), "sigma.scale": jnp.log(scale[1])}
    return cases.mean_field_bound(inner)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        autoguide.AutoNormal,
        autoguide.AutoDiagonalNormal,
        autoguide.AutoMultivariateNormal,
    ],
)
def test_autoguides_are_unbiased(family):
    case = cases.LOCATION_SCALE
    guide = family(case.model, init_scale=0.4)
    svi = SVI(case.model, guide, numpyro.optim.SGD(RATE), bbvi.ELBO(4))
    draws, exact = autoguide_draws(svi, data_of(case), bound_of_autoguide, 20_000)
    largest = np.abs(exact).max()
    assert_unbiased(draws, exact, detectable=0.25 * largest, rounding=1e-4 * largest)


@pytest.mark.parametrize(
    "family",
    [
        autoguide.AutoDelta,
        *slowly(
            autoguide.AutoLowRankMultivariateNormal,
            autoguide.AutoLaplaceApproximation,
            autoguide.AutoIAFNormal,
        ),
    ],
)
def test_other_autoguides_take_a_step(family):
    case = cases.LOCATION_SCALE
    svi = SVI(case.model, family(case.model), numpyro.optim.Adam(0.05), bbvi.ELBO())
    result = svi.run(jax.random.key(0), 200, **data_of(case), progress_bar=False)
    assert result.losses[-50:].mean() < result.losses[:10].mean()


def test_an_autoguide_over_the_continuous_sites_alone():
    """Discrete sites are hidden from it and summed out, without marks."""
    case = cases.MIXTURE
    data = data_of(case)
    guide = autoguide.AutoNormal(handlers.block(case.model, hide=["z"]))
    svi = SVI(case.model, guide, numpyro.optim.Adam(0.02), bbvi.ELBO(16))
    result = svi.run(jax.random.key(0), 1_500, **data, progress_bar=False)
    plan = svi.loss.plan(result.params, case.model, guide, **data)
    assert plan.marginalized == ("z",)
    fit = bbvi.fit(case.model, data, progress=False)
    assert -result.losses[-500:].mean() == pytest.approx(fit.elbo.value, abs=0.05)


def minibatch_of_locals(y, batch=2):
    mu = sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 5, batch) as index:
        x = sample("x", dist.Normal(mu, 1.0))
        sample("y", dist.Normal(x, 0.5), obs=y[index])


def bound_of_locals(params, y):
    """The expected log joint and the entropies, all Gaussian."""
    m, s = params["mu_auto_loc"], params["mu_auto_scale"]
    a, t = params["x_auto_loc"], params["x_auto_scale"]
    prior = -0.5 * (m**2 + s**2)
    locals_ = -0.5 * ((a - m) ** 2 + t**2 + s**2)
    likelihood = -0.5 * ((y - a) ** 2 + t**2) / 0.25
    return prior + jnp.sum(locals_ + likelihood + jnp.log(t)) + jnp.log(s)


@pytest.mark.slow
def test_an_autoguide_of_locals_in_a_minibatch():
    """Its plates see the model's own indices, and the scale counts once."""
    y = jnp.asarray([0.3, 1.9, -0.4, 1.1, 0.6])
    guide = autoguide.AutoNormal(minibatch_of_locals, init_scale=0.5)
    svi = SVI(minibatch_of_locals, guide, numpyro.optim.SGD(RATE), bbvi.ELBO(1))
    draws, exact = autoguide_draws(
        svi, {"y": y}, lambda params: bound_of_locals(params, y), 20_000
    )
    largest = np.abs(exact).max()
    assert_unbiased(draws, exact, detectable=0.25 * largest, rounding=1e-4 * largest)


def test_predictive_with_the_parameters_of_a_run():
    case = cases.MIXTURE
    svi = SVI(case.model, case.guide, numpyro.optim.Adam(0.05), bbvi.ELBO())
    data = data_of(case)
    result = svi.run(jax.random.key(0), 20, **data, progress_bar=False)
    draws = Predictive(svi.guide, params=result.params, num_samples=7)
    assert draws(jax.random.key(1), **data)["z"].shape == (7, 3)
    anew = Predictive(
        handlers.uncondition(case.model),
        guide=svi.guide,
        params=result.params,
        num_samples=7,
    )
    assert anew(jax.random.key(1), **data)["y"].shape == (7, 3)


@pytest.mark.parametrize("method", ["sequential", *slowly("vectorized")])
def test_vsbc(method):
    """NumPyro's diagnostic conditions the model on draws that are traced."""

    def model(y=None):
        mu = sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", 3):
            sample("y", dist.Normal(mu, 1.0), obs=y)

    found = vsbc_diagnostic(
        jax.random.PRNGKey(0),
        model,
        autoguide.AutoNormal(model),
        numpyro.optim.Adam(0.05),
        bbvi.ELBO(),
        observed_sites=["y"],
        num_simulations=40,
        num_svi_steps=200,
        num_samples=50,
        chain_method=method,
    )
    assert found.ks_pvalues["mu"] > 1e-3
    assert 0.3 < found.probabilities["mu"].mean() < 0.7


# --- modules: parameters as pytrees, mutable state -----------------------------------


def layer(x):
    """A layer as NumPyro's `flax_module` declares one, with running statistics."""
    weights, state = param("net$params"), mutable("net$state")
    assert (weights is None) == (state is None)
    if weights is None:
        key = numpyro.prng_key()
        weights = {"bias": jnp.zeros(()), "kernel": jax.random.normal(key, (2,))}
        state = {"mean": jnp.zeros(()), "count": jnp.zeros((), int)}
        mutable("net$state", state)
        param("net$params", weights)
    out = x @ weights["kernel"] + weights["bias"]
    state["mean"] = jax.lax.stop_gradient(0.9 * state["mean"] + 0.1 * out.mean())
    state["count"] = state["count"] + 1
    return out


def module_model(x, y):
    noise = sample("noise", dist.HalfNormal(1.0))
    loc = layer(x)
    with numpyro.plate("rows", len(x)):
        sample("y", dist.Normal(loc, noise), obs=y)


def module_guide(x, y):
    sample("noise", dist.LogNormal(param("n", 0.0), 0.1))


@pytest.mark.parametrize("particles", [1, 3])
def test_modules_with_state(particles):
    x = jnp.asarray([[0.5, 1.0], [-1.0, 0.3], [0.2, -0.7]])
    y = x @ jnp.array([1.0, -2.0]) + 0.5
    svi = SVI(
        module_model, module_guide, numpyro.optim.Adam(0.05), bbvi.ELBO(particles)
    )
    result = svi.run(jax.random.key(0), 400, x, y, progress_bar=False)
    weights = result.params["net$params"]
    np.testing.assert_allclose(weights["kernel"], [1.0, -2.0], atol=0.1)
    np.testing.assert_allclose(weights["bias"], 0.5, atol=0.1)
    state = result.state.mutable_state["net$state"]
    assert state["count"] == 401, "once when it began, once a step"
    np.testing.assert_allclose(state["mean"], y.mean(), atol=0.1)


def test_state_beside_a_site_that_is_summed_out():
    def model(x, y):
        with numpyro.plate("rows", len(x)):
            z = sample("z", dist.Bernoulli(0.3))
            sample("y", dist.Normal(layer(x) + z, 1.0), obs=y)

    x, y = jnp.ones((3, 2)), jnp.ones(3)
    svi = SVI(model, lambda x, y: None, numpyro.optim.Adam(0.05), bbvi.ELBO())
    state = svi.init(jax.random.key(0), x, y)
    with pytest.raises(NotImplementedError, match=r"\(net\$state\) and sites .*\(z\)"):
        svi.update(state, x, y)


def test_parameters_that_only_their_given_values_describe():
    """`numpyro.param` without a value of its own."""

    def guide(y):
        sample("mu", dist.Normal(param("both")["m"], param("both")["s"]))

    case = cases.NORMAL
    svi = SVI(case.model, guide, numpyro.optim.SGD(RATE), bbvi.ELBO())
    start = {"both": {"m": jnp.array(0.3), "s": jnp.array(0.5)}}
    state = svi.init(jax.random.key(0), **case.data, init_params=start)
    state, value = svi.update(state, **case.data)
    assert np.isfinite(value)
    assert svi.get_params(state)["both"]["m"] != 0.3


def test_maximum_likelihood_needs_no_latent():
    def model(y):
        sample("y", dist.Normal(param("m", 0.0), 1.0).expand([3]).to_event(1), obs=y)

    y = jnp.array([1.0, 2.0, 6.0])
    svi = SVI(model, lambda y: None, numpyro.optim.SGD(0.1), bbvi.ELBO())
    result = svi.run(jax.random.key(0), 100, y, progress_bar=False)
    assert result.params["m"] == pytest.approx(3.0, abs=1e-3)
