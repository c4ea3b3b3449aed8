"""`Funnel` against its map from noise, written out by hand.

The oracle has the map alone; densities are its Jacobian, bounds are Gauss-Hermite
quadrature over the noise.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import optimize

import bbvi
from bbvi import guides, programs
from bbvi.drawing import draw
from bbvi.families import richer_guide
from bbvi.guides.funnel import FunnelNormal, scales
from bbvi.planning import PlanError
from tests import cases
from tests.cases import f, hermite, sample
from tests.compiles import count_compiles
from tests.statistics import assert_biased, assert_unbiased
from tests.test_gradients import (
    QUICKLY,
    demands,
    draws_of,
    exact_of,
    params_of,
    plan_of,
)

TRIL = dist.biject_to(dist.constraints.lower_cholesky)
HALF = 0.5 * (1 + math.log(2 * math.pi))


def straight_of(noise, params):
    """Deviations of the Gaussian."""
    return TRIL(params["_joint.scale_tril"]) @ noise


# --- two scales between other sites ---------------------------------------------------

Y = f(1.9, -0.4, 0.7)


def two_scales_model(y):
    mu = sample("mu", dist.Normal(0.3, 1.2))
    tau = sample("tau", dist.Gamma(3.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", 3):
        a = sample("a", dist.StudentT(5.0, mu, tau[0]))
        sample("y", dist.Normal(jnp.tanh(a), tau[1]), obs=y)


TWO = guides.Funnel(("tau",))
BEND = 0.3 * f(0.7, -0.4, 1.1, -0.9, 0.2, 1.3, -0.6, 0.8).reshape(4, 2)
TWO_PARAMS = {
    "_joint.loc": f(0.4, 0.2, -0.3, 1.0, -0.5, 0.6),
    "_joint.scale_tril": (0.4 * np.sin(1.0 + 1.3 * np.arange(21))).astype(np.float32),
    "_joint.bend.1": BEND,
}


def two_scales_map(noise, params):
    """`tau` is the second and the third of six elements."""
    off = straight_of(noise, params)
    by = jnp.exp(params["_joint.bend.1"] @ off[1:3])
    moved = jnp.concatenate([off[:1] * by[:1], off[1:3], off[3:] * by[1:]])
    return params["_joint.loc"] + moved


@pytest.fixture(scope="module")
def two():
    return bbvi.plan(two_scales_model, {"y": Y}, guide=TWO, num_particles=3)


def vector_of(values):
    parts = values["mu"], jnp.log(values["tau"]), values["a"]
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def test_draws_carry_the_density_of_the_map(two):
    """The noise behind a draw by Newton's steps, which end after one for each part."""
    params = jax.tree.map(jnp.asarray, TWO_PARAMS)
    arrays = two.analysis.arguments.arrays

    @jax.jit
    def both(key):
        made = draw(two, params, key, arrays, values=True)
        value, noise = vector_of(made.values), jnp.zeros(6)
        slope_of = jax.jacfwd(two_scales_map)
        for _ in range(3):
            missing = value - two_scales_map(noise, params)
            noise += jnp.linalg.solve(slope_of(noise, params), missing)
        volume = jnp.linalg.slogdet(slope_of(noise, params))[1]
        jacobian = jnp.sum(jnp.log(made.values["tau"]))
        exact = dist.Normal(0.0, 1.0).log_prob(noise).sum() - volume - jacobian
        return made.log_q, exact, volume

    found, exact, volumes = jax.vmap(both)(jax.random.split(jax.random.key(2), 20))
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-3)
    assert volumes.std() > 0.3  # which a Gaussian's would not vary by


def test_without_bend_it_is_the_full_rank_gaussian(two):
    full = bbvi.plan(
        two_scales_model, {"y": Y}, guide=guides.FullRank(), num_particles=3
    )
    params = {**TWO_PARAMS, "_joint.bend.1": jnp.zeros((4, 2))}
    kept = {n: x for n, x in params.items() if "bend" not in n}
    key, data = jax.random.key(1), {"y": Y}

    def slope(plan, params):
        both = jax.value_and_grad(bbvi.loss(plan), has_aux=True)
        (value, _), slope = jax.jit(both, compiler_options=QUICKLY)(params, key, data)
        return value, slope

    value, found = slope(two, params)
    expected, exact = slope(full, kept)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name, there in exact.items():
        np.testing.assert_allclose(found[name], there, rtol=1e-3, atol=1e-4)
    assert np.abs(found["_joint.bend.1"]).max() > 0.1


def test_gaussian_has_the_moments_of_the_map(two):
    params = jax.tree.map(jnp.asarray, TWO_PARAMS)
    nodes, weights = hermite(6, 7)
    drawn = np.asarray(jax.vmap(two_scales_map, (0, None))(nodes, params), np.float64)
    mean = weights @ drawn
    covariance = (drawn - mean).T @ (weights[:, None] * (drawn - mean))
    found = TWO.gaussian(two.analysis, two.drawn, params)
    loc, scale = (np.concatenate([*map(np.ravel, x.values())]) for x in found[:2])
    np.testing.assert_allclose(loc, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(scale**2, np.diagonal(covariance), rtol=5e-3)
    np.testing.assert_allclose(found.covariance(), covariance, rtol=5e-3, atol=1e-3)


def test_it_starts_as_the_gaussian_it_is_given(two):
    found = TWO.gaussian(two.analysis, two.drawn, TWO_PARAMS)
    start = TWO.start_from(two.analysis, two.drawn, TWO_PARAMS, found)
    assert not start["_joint.bend.1"].any()
    again = TWO.gaussian(two.analysis, two.drawn, start)
    np.testing.assert_allclose(again.covariance(), found.covariance(), rtol=1e-5)


# --- steps ----------------------------------------------------------------------------


def test_steps_of_the_bend_are_in_deviations_given_all_others():
    params = jax.tree.map(jnp.asarray, TWO_PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for name, value in TWO.retract(params, zeros).items():
        np.testing.assert_allclose(value, params[name], rtol=1e-5, atol=1e-6)
    step = f(0.3, -1.0, 0.8, 0.1, 1.2, -0.7, 0.4, 0.9).reshape(4, 2)
    moved = TWO.retract(params, {**zeros, "_joint.bend.1": step})
    root = np.asarray(TRIL(params["_joint.scale_tril"]), np.float64)
    covariance = root @ root.T
    sd = np.sqrt(np.diagonal(covariance))
    rest = [0, 3, 4, 5]
    for row, i in enumerate(rest):
        others = [j for j in range(6) if j != i]
        through = np.linalg.solve(
            covariance[np.ix_(others, others)], covariance[i, others]
        )
        free = np.sqrt(covariance[i, i] - through @ covariance[others, i])
        log_scale = (moved["_joint.bend.1"] - params["_joint.bend.1"])[row] * sd[1:3]
        np.testing.assert_allclose(log_scale * sd[i], step[row] * free, rtol=1e-3)
    units = TWO.units(TWO_PARAMS)["_joint.bend.1"]
    np.testing.assert_allclose(units, np.tile(1 / sd[1:3], (4, 1)), rtol=1e-5)


def test_steps_are_small_and_finite_where_elements_are_collinear():
    """Two elements 1e-4 apart: log scales that differ would tear them apart."""
    root = np.diag(f(0.5, 2.0, 2e-4))
    root[2, 1] = 2.0
    vector = np.concatenate([root[np.tril_indices(3, -1)], np.log(np.diagonal(root))])
    params = {
        "_joint.loc": jnp.zeros(3),
        "_joint.scale_tril": jnp.asarray(vector, jnp.float32),
        "_joint.bend.0": jnp.zeros((2, 1)),
    }
    zeros = jax.tree.map(jnp.zeros_like, params)
    apart = {**zeros, "_joint.bend.0": f(0.05, -0.05).reshape(2, 1)}
    moved = guides.Funnel(("tau",)).retract(params, apart)["_joint.bend.0"]
    assert np.all(np.isfinite(moved))
    assert abs(float(moved[0, 0] - moved[1, 0])) < 1e-3


# --- the bound ------------------------------------------------------------------------


def curved_model(y):
    s = sample("s", dist.Gamma(2.5, 1.5))
    a = sample("a", dist.Normal(0.4, s))
    b = sample("b", dist.Gumbel(0.2, 0.9))
    sample("y", dist.Normal(jnp.tanh(a) + 0.3 * b, 0.5 + s), obs=y)


CURVED_PARAMS = {
    "_joint.loc": f(0.2, 0.7, -0.3),
    "_joint.scale_tril": f(0.2, -0.3, 0.4, -0.9, -0.6, -1.1),
    "_joint.bend.0": f(0.8, -0.5).reshape(2, 1),
}


def curved_map(noise, params):
    off = straight_of(noise, params)
    bend = jnp.concatenate([jnp.zeros(1), params["_joint.bend.0"][:, 0]])
    return params["_joint.loc"] + off * jnp.exp(bend * off[0])


def curved_bound(params):
    nodes, weights = hermite(3, 16)

    def one(noise):
        log_s, a, b = curved_map(noise, params)
        values = {"s": jnp.exp(log_s), "a": a, "b": b}
        given = handlers.substitute(curved_model, values)
        trace = handlers.trace(given).get_trace(0.8)
        log_p = sum(site["fn"].log_prob(site["value"]) for site in trace.values())
        volume = jnp.linalg.slogdet(jax.jacfwd(curved_map)(noise, params))[1]
        return log_p + log_s + volume

    return weights @ jax.vmap(one)(nodes) + 3 * HALF


CURVED = cases.Case(
    curved_model,
    {"y": f(0.8)[0]},
    None,
    CURVED_PARAMS,
    family=guides.Funnel(("s",)),
    exact=curved_bound,
    samples=40_000,
)
LANDING = CURVED.but(estimators=dict.fromkeys(("s", "a", "b"), cases.Landing))


@pytest.mark.parametrize("case", [CURVED, LANDING], ids=["entropy", "landing"])
def test_gradient_is_unbiased(case):
    plan = plan_of(case)
    assert set(params_of(case)) == set(plan.parameters)
    exact = exact_of(case)
    assert_unbiased(draws_of(case, plan), exact, **demands(case, exact))


def test_control_that_forgets_the_volume(monkeypatch):
    right = FunnelNormal.log_prob

    def wrong(self, value):
        return right(self, value) + jnp.sum((value - self.base.loc) @ self.bend.T)

    monkeypatch.setattr(FunnelNormal, "log_prob", wrong)
    exact = exact_of(LANDING)
    assert_biased(draws_of(LANDING, plan_of(LANDING)), exact, **demands(LANDING, exact))


def test_a_fit_ends_at_the_top_of_the_bound():
    """What quadrature still gains from there is nothing next to a Gaussian's gap."""
    like = {n: np.shape(x) for n, x in CURVED_PARAMS.items()}
    ends = np.cumsum([math.prod(shape) for shape in like.values()])[:-1]

    @jax.jit
    def loss(vector):
        parts = jnp.split(jnp.asarray(vector, jnp.float32), ends)
        pairs = zip(like.items(), parts, strict=True)
        return -curved_bound({n: x.reshape(shape) for (n, shape), x in pairs})

    def best_from(params):
        begun = np.concatenate([np.ravel(params[n]) for n in like]).astype(float)
        slope = jax.jit(jax.grad(loss))
        made = optimize.minimize(
            lambda x: float(loss(x)),
            begun,
            jac=lambda x: np.asarray(slope(x), float),
            method="L-BFGS-B",
        )
        return -float(loss(begun)), -made.fun

    fits = [
        bbvi.fit(curved_model, CURVED.data, guide=guide, progress=False)
        for guide in (CURVED.family, guides.FullRank())
    ]
    fit, poorer = fits
    assert "Newton steps" in fit.history.note
    bound, best = best_from(fit.params)
    straight = {"_joint.bend.0": np.zeros((2, 1), np.float32)}
    gaussian, same = best_from({**poorer.params, **straight})
    assert best - bound < 2e-3
    assert best - gaussian > 0.02
    assert same == pytest.approx(best, abs=2e-3)
    assert fit.elbo.value == pytest.approx(bound, abs=0.02)


# --- the choice -----------------------------------------------------------------------


def group_model(y):
    sd = sample("sd", dist.HalfNormal(2.0))
    with numpyro.plate("rows", 3):
        z = sample("z", dist.Normal(0.0, 1.0))
        own = sample("own", dist.Gamma(2.0, 2.0))
        sample("y", dist.Normal(sd * z, own), obs=y)


def positive_model(y):
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(0.0, rate), obs=y)


def many_model(y):
    sd = sample("sd", dist.HalfNormal(1.0).expand([21]).to_event(1))
    z = sample("z", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(z, sd.sum()), obs=y)


@pytest.mark.parametrize(
    ("model", "sites"),
    [(group_model, ("sd",)), (positive_model, ()), (many_model, ())],
)
def test_it_comes_after_full_rank_where_there_are_scales(model, sites):
    analysis = bbvi.analyze(model, {"y": Y})
    names = tuple(analysis.latents)
    assert scales(analysis, names) == sites
    after = richer_guide(analysis, names, guides.FullRank())
    assert after == (guides.Funnel(sites) if sites else None)
    assert after is None or richer_guide(analysis, names, after) is None


def test_sites_relative_to_their_priors_come_first():
    analysis = bbvi.analyze(two_scales_model, {"y": Y})
    after = richer_guide(analysis, tuple(analysis.latents), guides.FullRank())
    assert after == guides.NonCentered(("a",))


@pytest.mark.parametrize(
    ("model", "sites", "words"),
    [
        (group_model, (), r"Funnel\(sites=\(\)\) names no site: use guides.FullRank"),
        (group_model, ("w",), r"'w' is no continuous site of q; use of sd, z, own"),
        (group_model, ("sd", "z", "own"), r"leaves no continuous site.*FullRank\(\)"),
    ],
)
def test_what_it_cannot_carry_is_refused(model, sites, words):
    with pytest.raises(PlanError, match=words):
        bbvi.plan(model, {"y": Y}, guide=guides.Funnel(sites))


def test_discrete_sites_keep_their_tables():
    def model(y):
        s = sample("s", dist.Gamma(2.0, 2.0))
        m = sample("m", dist.Normal(0.0, s))
        with numpyro.plate("rows", 3):
            z = sample("z", dist.Bernoulli(0.4))
            sample("y", dist.Normal(m * z, 1.0), obs=y)

    plan = bbvi.plan(
        model,
        {"y": Y},
        guide=guides.Funnel(("s",)),
        estimators={"z": cases.Local},
    )
    assert set(plan.parameters) == {
        "_joint.loc",
        "_joint.scale_tril",
        "_joint.bend.0",
        "z.logits",
    }
    with pytest.raises(PlanError, match="'z' is no continuous site of q"):
        bbvi.plan(
            model,
            {"y": Y},
            guide=guides.Funnel(("z",)),
            estimators={"z": cases.Local},
        )


# --- a funnel, of which it is the exact posterior -------------------------------------


def funnel():
    """Neal's, its effects' prior hidden in a factor; the evidence is 1."""
    s = sample("s", dist.LogNormal(0.3, 1.0))
    x = sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
    numpyro.factor("prior", dist.Normal(0.0, s).log_prob(x).sum())


def test_a_fit_moves_to_it_when_k_hat_asks_for_it():
    fit = bbvi.fit(funnel, progress=False)
    assert fit.plan.guide == guides.Funnel(("s",))
    assert fit.plan.guide_reason.startswith("FullRank() could not carry")
    poor, rich = fit.history.path
    assert poor.startswith("FullRank(): ELBO -0.")
    assert float(poor.split("k-hat ")[1]) >= 0.7  # rounded
    assert rich.startswith("Funnel(sites=('s',)): ELBO ")
    assert fit.verdict.level is bbvi.Level.TRUST
    assert abs(fit.elbo.value) < 0.01
    assert fit.khat < 0.5
    np.testing.assert_allclose(fit.params["_joint.bend.0"], 1, atol=0.03)
    at = fit.plan.guide.gaussian(fit.plan.analysis, fit.plan.drawn, fit.params)
    exact = math.exp(0.3 + 1.0)  # the root of E[s^2]
    np.testing.assert_allclose(at.loc["s"], 0.3, atol=0.05)
    np.testing.assert_allclose(at.scale["s"], 1.0, rtol=0.05)
    np.testing.assert_allclose(at.loc["x"], 0.0, atol=0.05 * exact)
    # The errors that s may have, as exp(loc + scale^2), and .05 of its own.
    np.testing.assert_allclose(at.scale["x"], exact, rtol=0.2)


@pytest.mark.parametrize(("size", "expected"), [(2, 2), (12, 1)])
def test_in_more_dimensions_both_families_have_one_program(size, expected, monkeypatch):
    monkeypatch.setattr(programs, "_kept", type(programs._kept)())

    def model():
        s = sample("s", dist.LogNormal(0.3, 1.0))
        x = sample("x", dist.ImproperUniform(dist.constraints.real, (), (size,)))
        numpyro.factor("prior", dist.Normal(0.0, s).log_prob(x).sum())

    with count_compiles() as count:
        fit = bbvi.fit(model, progress=False)
    assert fit.plan.guide == guides.Funnel(("s",))
    assert abs(fit.elbo.value) < 0.02
    assert sum("newton" in name for name in count.compiled) == expected
    again = bbvi.fit(model, guide=guides.Funnel(("s",)), progress=False)
    assert again.elbo.value == pytest.approx(fit.elbo.value, abs=0.02)


@pytest.mark.parametrize(("size", "guide"), [(2, "FullRank"), (12, "Funnel")])
def test_weights_are_enough_to_go_on_to_it_where_it_is_compiled(size, guide):
    def model():
        s = sample("s", dist.LogNormal(0.3, 0.2))
        x = sample("x", dist.ImproperUniform(dist.constraints.real, (), (size,)))
        numpyro.factor("prior", dist.Normal(0.0, s).log_prob(x).sum())

    asked = bbvi.fit(model, guide=guides.FullRank(), progress=False)
    assert asked.plan.guide == guides.FullRank()
    fit = bbvi.fit(model, progress=False)  # whatever was fitted before
    first = float(fit.history.path[0].split("k-hat ")[1])
    assert 0.4 < first < 0.7
    assert type(fit.plan.guide).__name__ == guide
    is_bent = guide == "Funnel"
    assert ("need weights, k-hat" in fit.plan.guide_reason) is is_bent
    expected = bbvi.Level.TRUST if is_bent else bbvi.Level.REWEIGHT
    assert fit.verdict.level is expected


def test_a_family_on_the_way_is_judged_from_fewer_draws_than_the_last(monkeypatch):
    counts, final = [], programs.Programs.final

    def counted(self, *args, is_rough):
        made = final(self, *args, is_rough=is_rough)
        counts.append((is_rough, len(made.log_p)))
        return made

    monkeypatch.setattr(programs.Programs, "final", counted)
    monkeypatch.setattr(programs, "NUM_NUMBERS", 12_000)
    fit = bbvi.fit(funnel, progress=False)
    assert len(fit.history.path) == 2
    (was_rough, few), (is_rough, many) = counts
    assert was_rough
    assert not is_rough
    assert few < many


def groups_model(y):
    mu, sd = sample("mu", dist.Normal(0.0, 5.0)), sample("sd", dist.HalfCauchy(1.0))
    with numpyro.plate("groups", 40):
        z = sample("z", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(mu + sd * z, 0.4), obs=y)


@pytest.mark.slow
def test_forty_effects_are_found_from_any_start():
    """Where stochastic gradients need a start near the posterior, or diverge."""
    y = np.random.default_rng(2).normal(1.0, 1.2, 40).astype(np.float32)
    guide = guides.Funnel(("sd",))
    fits = [
        bbvi.fit(groups_model, {"y": y}, guide=guide, seed=seed, progress=False)
        for seed in range(2)
    ]
    gaussian = bbvi.fit(groups_model, {"y": y}, guide=guides.FullRank(), progress=False)
    one, other = fits
    assert "Newton steps" in one.history.note
    assert one.elbo.value == pytest.approx(other.elbo.value, abs=0.05)
    assert one.elbo.value > gaussian.elbo.value + 0.2
    assert np.all(one.params["_joint.bend.1"][1:] < -0.5)
