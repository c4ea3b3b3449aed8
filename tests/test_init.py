"""Values that a user gives are where starts lie, in every family and both phases."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.control_flow import scan

import bbvi
import models
from bbvi import Level, guides
from bbvi.drawing import whole
from bbvi.guides.base import INITIAL_SCALE, Gaussian, continuous_of, prior_centre
from bbvi.guides.gaussian import by_site
from bbvi.joint import constrain, run_guide
from bbvi.starting import HERE, NARROW, member_at, origin_of
from tests.cases import f, sample
from tests.compiles import count_compiles
from tests.test_gradients import QUICKLY

QUIET = {"progress": False}
FAR = 300.0


def wells(more):
    """A well at 0 and a narrow one far off, of as much mass times e to the ``more``."""
    mu = sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    far = more + dist.Normal(FAR, 0.1).log_prob(mu)
    numpyro.factor("wells", jnp.logaddexp(dist.Normal(0.0, 1.0).log_prob(mu), far))


# Found, and not followed where it is worse.

PHASES = {
    "newton": {},
    "newton, one start": {"num_starts": 1},
    "gradients": {"optimizer": optax.adam(0.05)},
    "gradients, one start": {"optimizer": optax.adam(0.05), "num_starts": 1},
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_fit_ends_where_only_given_values_lead(phase):
    def ends(**given):
        return bbvi.fit(wells, {"more": 5.0}, **PHASES[phase], **given, **QUIET)

    found, control = ends(init={"mu": FAR + 0.2}), ends()
    assert found.status is control.status is bbvi.Status.CONVERGED
    np.testing.assert_allclose(found.elbo.value, 5.0, atol=0.05)
    np.testing.assert_allclose(found.draws(1_000)["mu"].mean(), FAR, atol=0.05)
    np.testing.assert_allclose(control.elbo.value, 0.0, atol=0.05)


@pytest.mark.parametrize("phase", ["newton", "gradients"])
def test_worse_values_are_not_followed(phase):
    given = {"init": {"mu": FAR}, **PHASES[phase], **QUIET}
    fit = bbvi.fit(wells, {"more": -20.0}, **given)
    np.testing.assert_allclose(fit.elbo.value, 0.0, atol=0.05)
    assert abs(fit.draws(1_000)["mu"].mean()) < 0.2
    assert fit.verdict.level is Level.TRUST


@pytest.mark.parametrize("phase", ["newton", "gradients"])
@pytest.mark.parametrize("more", [-1.0, 1.0])
def test_another_place_as_good_is_seen_beside_the_given_one(phase, more):
    given = {"init": {"mu": FAR}, **PHASES[phase], **QUIET}
    fit = bbvi.fit(wells, {"more": more}, **given)
    assert fit.khat < 0.7
    assert fit.verdict.level is Level.DO_NOT_TRUST
    assert "different places" in fit.verdict.reason


def wave(t, y):
    omega = sample("omega", dist.HalfNormal(10.0))
    a = sample("a", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    curve = a[0] * jnp.cos(omega * t) + a[1] * jnp.sin(omega * t)
    sample("y", dist.Normal(curve, 0.5).to_event(1), obs=y)


def test_a_needle_beside_others_needs_narrow_starts(monkeypatch):
    """Neighbouring peaks in the frequency are 3 % away; the control sees them all."""
    t = np.linspace(0.0, 10.0, 100, dtype="f")
    y = np.sin(21.0 * t) + 0.5 * np.random.default_rng(0).normal(size=100)
    given = {"init": {"omega": 21.15}, "guide": guides.FullRank(), "num_starts": 6}
    given |= QUIET
    fit = bbvi.fit(wave, {"t": t, "y": y}, **given)
    assert fit.verdict.level is Level.TRUST
    np.testing.assert_allclose(fit.draws(1_000)["omega"].mean(), 21.0, atol=0.1)
    monkeypatch.setattr("bbvi.starting.NARROW", INITIAL_SCALE)
    control = bbvi.fit(wave, {"t": t, "y": y}, **given)
    arrived = [np.sum(x.history.start_elbos[HERE] > -90) for x in (fit, control)]
    assert arrived[0] >= 2
    assert arrived[1] <= 1


def test_other_values_compile_nothing():
    first = bbvi.fit(wells, {"more": 5.0}, init={"mu": FAR}, **QUIET)
    with count_compiles() as count:
        again = bbvi.fit(wells, {"more": 5.0}, init={"mu": np.float32(FAR)}, **QUIET)
        other = bbvi.fit(wells, {"more": 5.0}, init={"mu": FAR - 0.1}, **QUIET)
        bbvi.fit(wells, {"more": 5.0}, init={}, **QUIET)
    assert count.compiles == 0
    for name, value in first.params.items():
        assert np.array_equal(again.params[name], value)
    elbos = [fit.history.start_elbos for fit in (first, other)]
    assert not np.array_equal(*elbos)


def test_a_family_in_other_coordinates_begins_there_too():
    """Eight schools, centred, moves to `NonCentered` on the way."""
    zoo = models.load("eight_schools_centered")
    init = {"mu": 4.0, "tau": 2.0, "theta": 4.0}
    fit = bbvi.fit(zoo.model, zoo.data(), init=init, **QUIET)
    assert isinstance(fit.plan.guide, guides.NonCentered)
    assert fit.status is bbvi.Status.CONVERGED
    np.testing.assert_allclose(fit.elbo.value, -31.6, atol=0.1)
    near, usual = fit.history.start_elbos[HERE], fit.history.start_elbos[1::2]
    assert np.isfinite([*near, *usual]).all()


# Where starts lie.

Y = f(2.8, 0.8, -0.3, 0.7)
VALUES = {
    "mu": 300.0,
    "w": f(0.2, 0.3, 0.5),
    "top": 1.5,
    "low": 0.3,
    "theta": f(290.0, 301.0, 307.0, 296.0),
}


def several(y):
    """Supports of many kinds, one that moves; children of what is given."""
    mu = sample("mu", dist.Normal(0.0, 1.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    sample("w", dist.Dirichlet(jnp.ones(3)))
    sample("low", dist.Uniform(0.0, sample("top", dist.Uniform(0.0, 2.0))))
    with numpyro.plate("rows", 4):
        theta = sample("theta", dist.Normal(mu, sigma))
        sample("y", dist.Normal(theta, 1.0), obs=y)


def walk(y):
    def step(x, y):
        x = sample("x", dist.Normal(0.8 * x, 1.0))
        child = sample("child", dist.LogNormal(x, 0.1))
        sample("y", dist.Normal(child, 0.5), obs=y)
        return x, None

    scan(step, 0.0, y)


def batches(y):
    mu = sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 4, subsample_size=2) as rows:
        theta = sample("theta", dist.Normal(mu, 1.0))
        sample("y", dist.Normal(theta, 1.0), obs=y[rows])


FAMILIES = [
    guides.MeanField(),
    guides.FullRank(),
    guides.LowRank(2),
    guides.Structured(),
    guides.NonCentered(("theta",)),
    guides.Funnel(("sigma",)),
]


def origin_in(plan, values):
    """`origin_of` without the other programs of a plan."""
    full = whole(plan).analysis

    @jax.jit
    def centre(init, data):
        kwargs = full.arguments.bind(data)
        return plan.guide.centre(full, plan.drawn, kwargs, init)

    programs, arrays = SimpleNamespace(centre=centre), plan.analysis.arguments.arrays
    return origin_of(plan, programs, values, arrays)


def drawn_at(plan, origin):
    """A draw of the narrow member there."""
    sites = continuous_of(plan.analysis, plan.drawn)
    parts = partial(by_site, plan.analysis, sites)
    scale = np.full(len(origin.loc), 1e-6)
    at = Gaussian(parts(origin.loc), parts(scale), lambda: np.diag(scale**2))
    key = jax.random.key(0)
    params = member_at(plan, jax.jit(plan.init, compiler_options=QUICKLY)(key), at)
    kwargs = plan.analysis.arguments.bind(plan.analysis.arguments.arrays)

    def draw(params):
        trace = run_guide(plan.program, kwargs, key, constrain(plan.parameters, params))
        return {name: site["value"] for name, site in trace.items()}

    return jax.device_get(jax.jit(draw, compiler_options=QUICKLY)(params))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_a_family_begins_at_the_values_and_children_follow(family):
    plan = bbvi.plan(several, {"y": Y}, guide=family)
    origin = origin_in(plan, VALUES)
    found = drawn_at(plan, origin)
    for name, value in VALUES.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    origin = origin_in(plan, {"mu": 300.0})
    found = drawn_at(plan, origin)
    np.testing.assert_allclose(found["theta"], 300.0, rtol=1e-4)
    assert origin.is_given.sum() == 1


def test_control_in_the_coordinates_of_another_family(monkeypatch):
    monkeypatch.setattr(guides.NonCentered, "centre", guides.FullRank.centre)
    plan = bbvi.plan(several, {"y": Y}, guide=guides.NonCentered(("theta",)))
    found = drawn_at(plan, origin_in(plan, VALUES))
    assert np.abs(found["theta"] - VALUES["theta"]).min() > 100


def test_states_of_a_scan_and_their_children():
    plan = bbvi.plan(walk, {"y": Y}, guide=guides.FullRank())
    found = drawn_at(plan, origin_in(plan, {"x": Y}))
    np.testing.assert_allclose(found["x"], Y, rtol=1e-4)
    np.testing.assert_allclose(found["child"], np.exp(Y + 0.005), rtol=1e-4)


@pytest.mark.parametrize("family", [guides.MeanField(), guides.Structured()], ids=repr)
def test_plates_of_minibatches_are_given_whole(family):
    plan = bbvi.plan(batches, {"y": Y}, guide=family)
    values = {"theta": f(5.0, 6.0, 7.0, 8.0)}
    found = drawn_at(plan, origin_in(plan, values))
    np.testing.assert_allclose(
        found["theta"], values["theta"][found["rows"]], rtol=1e-4
    )


def test_the_first_start_lies_there_and_the_others_near():
    plan = bbvi.plan(several, {"y": Y}, guide=guides.MeanField())
    origin = origin_in(plan, {"mu": 300.0, "sigma": 2.0})
    locs = origin.around(np.random.default_rng(0).standard_normal((2_000, 10)))
    first = locs[0, origin.is_given]
    np.testing.assert_allclose(first, [300.0, np.log(2.0)], rtol=1e-6)
    spread = locs[1:].std(0)
    np.testing.assert_allclose(spread, np.where(origin.is_given, NARROW, 1.0), rtol=0.1)


def far_effects(y):
    mu = sample("mu", dist.Normal(1_000.0, 1.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("rows", 4):
        theta = sample("theta", dist.Normal(mu, sigma))
        sample("y", dist.Normal(theta, 1.0), obs=1_000.0 + y)


def test_starts_of_non_centred_sites_lie_around_their_priors():
    family = guides.NonCentered(("theta",))
    plan = bbvi.plan(far_effects, {"y": Y}, guide=family)
    keys = jax.random.split(jax.random.key(1), 8)
    starts = jax.jit(jax.vmap(plan.init))(keys)["_joint.loc"]
    assert np.abs(starts[:, 2:]).max() < 6
    names = tuple(plan.drawn)
    centre = prior_centre(plan.analysis, names, {"y": Y})
    assert np.all(centre["theta"] == 1_000)


# Refused before anything compiles.


def mixed(y):
    mu = sample("mu", dist.Normal(0.0, 1.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    numpyro.deterministic("double", 2 * mu)
    with numpyro.plate("rows", 4):
        z = sample("z", dist.Bernoulli(0.3))
        theta = sample("theta", dist.Normal(mu, 1.0))
        sample("y", dist.Normal(theta + z, sigma), obs=y)


def own_guide(y):
    loc = numpyro.param("loc", 0.0)
    sample("mu", dist.Normal(loc, 0.1))
    sample("sigma", dist.LogNormal(0.0, 0.1))
    with numpyro.plate("rows", 4):
        sample("theta", dist.Normal(0.0, 1.0))


class Fixed(guides.MeanField):
    start_from = guides.Guide.start_from


LATENTS = (
    "names '{}', which is no latent site; the latent sites are mu, sigma, z, theta"
)
WRONG = {
    "unknown": ({"nu": 1.0}, LATENTS.format("nu")),
    "deterministic": ({"double": 1.0}, LATENTS.format("double")),
    "observed": ({"y": 1.0}, LATENTS.format("y")),
    "discrete": ({"z": 1}, "site 'z'.* is discrete, and init is for continuous sites"),
    "shape": (
        {"theta": np.ones(3)},
        r"init of site 'theta'.*shape \(3,\).*does not broadcast to the site's \(4,\)",
    ),
    "no fewer axes": ({"mu": [1.0]}, r"init of site 'mu'.*shape \(1,\).*site's \(\)"),
    "text": ({"mu": "a"}, "init of site 'mu'.*must be real numbers; found 'a'"),
    "complex": ({"mu": 1j}, "init of site 'mu'.*must be real numbers; found 1j"),
    "ragged": ({"theta": [[1], [2, 3]]}, "init of site 'theta'.*must be real numbers"),
    "none": ({"mu": None}, "init of site 'mu'.*must be real numbers; found None"),
    "nan": ({"theta": [0, 1, np.nan, 2]}, "'theta'.* is .*nan.*: give finite numbers"),
    "outside": (
        {"sigma": -1.0},
        r"init of site 'sigma'.* is -1\..*not in.*[pP]ositive",
    ),
    "edge": ({"sigma": 0.0}, r"init of site 'sigma'.* is 0\..*not in.*[pP]ositive"),
    "several": ({"nu": 1.0, "sigma": -1.0, "mu": "a"}, "'nu'.*'sigma'.*'mu'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_refused_before_anything_compiles(case):
    init, message = WRONG[case]
    refused = pytest.raises(ValueError, match=f"(?s)mixed cannot be fitted.*{message}")
    with count_compiles() as count, refused:
        bbvi.fit(mixed, {"y": Y}, init=init, **QUIET)
    assert count.compiles == 0


@pytest.mark.parametrize("init", [[1.0], 1.0, "mu"])
def test_no_mapping_is_refused(init):
    with pytest.raises(TypeError, match="init must map sites to values, such as"):
        bbvi.fit(mixed, {"y": Y}, init=init, **QUIET)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (own_guide, "the guide is a function, whose numpyro.param statements say"),
        (guides.Custom(own_guide), "the guide is a function"),
        (Fixed(), "has no start_from"),
    ],
)
def test_guides_that_begin_where_they_will_are_refused(guide, message):
    with count_compiles() as count, pytest.raises(ValueError, match=message):
        bbvi.fit(mixed, {"y": Y}, guide=guide, init={"mu": 1.0}, **QUIET)
    assert count.compiles == 0


@pytest.mark.parametrize("low", [1.7, 1.5, 0.0])
def test_a_value_outside_of_a_support_that_moves(low):
    plan = bbvi.plan(several, {"y": Y})
    with pytest.raises(ValueError, match="init of site 'low'.*not inside"):
        origin_in(plan, {"top": 1.5, "low": low})
    origin_in(plan, {"top": 1.5, "low": 1.4})
