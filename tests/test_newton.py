"""Newton steps on common random numbers, against exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.contrib.control_flow
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import optimize

import bbvi
from bbvi import guides
from bbvi.analysis.primitives import equations
from bbvi.fitting import default_programs
from bbvi.optimize.newton import MAX_ITERATIONS, Best, begun, make_newton, noise

SCALES = np.array([1.0, 30.0, 500.0, 0.02])
QUIET = {"progress": False}
TOLERANCE = 1e-5


def quadratic():
    """A Gaussian of four coordinates whose units differ by ten thousands."""
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(4, 4)) / SCALES
    precision = factor.T @ factor + np.diag(0.5 / SCALES**2)
    return precision, 50.0 * SCALES * rng.normal(size=4)


def search(log_density, locs, points, *, is_diagonal=False, bending=(), **options):
    """Searches from some points with a narrow q, compared with the best before each."""
    locs = np.asarray(locs, np.float32)
    count, dim = locs.shape
    newton = jax.jit(
        make_newton(
            lambda u, _: log_density(u),
            is_diagonal=is_diagonal,
            batch=options.get("batch", 1_000),
            bending=bending,
        )
    )
    bend = np.zeros((dim, len(bending)), "f")
    limit = options.get("limit", MAX_ITERATIONS)
    near, freedom = (np.float32(options.get(*x)) for x in (("near", 0), ("freedom", 1)))
    when = limit, np.float32(TOLERANCE), near, freedom
    made, best = [], Best(np.zeros(dim, "f"), np.zeros(dim, "f"), np.float32(-np.inf))
    for loc, eps in zip(locs, points.astype("f"), strict=True):
        start = begun(loc, 0.1 * np.eye(dim, dtype="f"), bend)
        made.append(newton(start, eps, eps.T, best, *when, {}))
        if made[-1].promised <= TOLERANCE and made[-1].elbo > best.elbo:
            sd = jnp.linalg.norm(made[-1].scale, axis=1)
            best = Best(made[-1].loc, sd, made[-1].elbo)
    return jax.tree.map(lambda *x: np.stack(x), *made)


def points_of(count, number, dim, seed=0):
    return noise(np.random.default_rng(seed), count, number, dim)


def test_noise_has_the_moments_of_a_standard_normal_exactly():
    points = points_of(3, 12, 5)
    np.testing.assert_allclose(points.mean(1), 0.0, atol=1e-12)
    second = np.swapaxes(points, 1, 2) @ points / 12
    np.testing.assert_allclose(second, np.broadcast_to(np.eye(5), (3, 5, 5)), atol=1e-9)
    assert not np.allclose(points[0], points[1])


@pytest.mark.parametrize("number", [8, 64])
@pytest.mark.parametrize("is_diagonal", [False, True])
def test_a_gaussian_is_found_in_any_units_whatever_the_noise(number, is_diagonal):
    precision, centre = quadratic()

    def log_density(u):
        return -0.5 * (u - centre) @ jnp.asarray(precision, "f") @ (u - centre)

    points = points_of(2, number, 4)
    starts = np.stack([np.zeros(4), -3 * SCALES])
    found = search(log_density, starts, points, is_diagonal=is_diagonal)
    covariance = np.linalg.inv(precision)
    if is_diagonal:
        covariance = np.diag(1 / np.diagonal(precision))
    made = found.scale @ np.swapaxes(found.scale, 1, 2)
    sds = np.sqrt(np.diagonal(np.linalg.inv(precision)))
    best = -0.5 * np.sum(precision * covariance)
    best += 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    assert np.all(found.promised <= TOLERANCE)
    for loc, scale in zip(found.loc, made, strict=True):
        np.testing.assert_allclose((loc - centre) / sds, 0.0, atol=0.03)
        np.testing.assert_allclose(
            scale / sds / sds[:, None], covariance / sds / sds[:, None], atol=0.03
        )
    np.testing.assert_allclose(found.elbo, best, atol=0.01)


def test_noise_that_is_not_white_misses_a_gaussian():
    """The control of the one above: its own moments go into the answer."""
    raw = np.random.default_rng(0).standard_normal((1, 64, 3))
    found = search(lambda u: -0.5 * u @ u, np.ones((1, 3)), raw)
    assert np.abs(found.loc).max() > 0.05
    assert np.abs(found.scale @ found.scale[0].T - np.eye(3)).max() > 0.1


def gumbel(u):
    """The log of a Gamma(2) variable: skewed, its mode is 0.69 and its mean 0.42."""
    return jnp.sum(2 * u - jnp.exp(u))


def best_for_gumbel():
    """Location and scale of the Gaussian with the highest bound, by its closed form."""

    def loss(at):
        loc, log_scale = at
        return -(2 * loc - np.exp(loc + np.exp(2 * log_scale) / 2) + log_scale)

    loc, log_scale = optimize.minimize(loss, [0.0, 0.0], method="BFGS", tol=1e-10).x
    return loc, np.exp(log_scale)


@pytest.mark.parametrize("is_diagonal", [False, True])
def test_a_skewed_density_within_the_monte_carlo_error(is_diagonal):
    count = 32
    points, starts = points_of(count, 256, 1), np.full((count, 1), 3.0)
    found = search(gumbel, starts, points, is_diagonal=is_diagonal)
    loc, scale = best_for_gumbel()
    assert np.all(found.promised <= TOLERANCE)
    for got, exact in ((found.loc, loc), (np.abs(found.scale), scale)):
        flat = got.ravel()
        error = flat.std(ddof=1) / np.sqrt(count)
        assert error < 0.004 * scale  # the power to see what the next lines forbid
        assert abs(flat.mean() - exact) < 4 * error + 0.004 * scale
    assert abs(loc - np.log(2)) > 0.1 * scale  # the mode would be seen to be wrong


def test_a_cubic_is_exact_from_two_points():
    """Third moments of mirrored noise vanish; the closed form has c = 0.05."""

    def loss(at):
        loc, log_scale = at
        square = np.exp(2 * log_scale)
        cubic = loc**3 + 3 * loc * square
        return (loc**2 + square) / 2 - 0.05 * cubic - log_scale

    loc, log_scale = optimize.minimize(loss, [0.0, 0.0], method="BFGS", tol=1e-10).x
    found = search(
        lambda u: jnp.sum(0.05 * u**3 - u**2 / 2), np.zeros((1, 1)), points_of(1, 2, 1)
    )
    np.testing.assert_allclose(found.loc.item(), loc, atol=0.01)
    np.testing.assert_allclose(found.scale.item(), np.exp(log_scale), atol=0.01)
    assert loc > 0.1  # the mode is 0, and would be seen to be wrong


def neal(u):
    """The log of Neal's funnel: effects of standard deviation exp(u_0 / 2)."""
    prior = dist.Normal(0.0, 1.5).log_prob(u[0])
    return prior + dist.Normal(0.0, jnp.exp(u[0] / 2)).log_prob(u[1:]).sum()


@pytest.mark.parametrize("number", [12, 128])
def test_a_funnel_is_found_whatever_the_noise(number):
    starts = [[1.0, 0.5, -0.3], [-2.0, 1.0, 1.0]]
    found = search(neal, starts, points_of(2, number, 3), bending=(0,))
    assert np.all(found.promised <= TOLERANCE)
    np.testing.assert_allclose(found.elbo, 0.0, atol=1e-4)
    np.testing.assert_allclose(found.loc, 0.0, atol=0.01)
    np.testing.assert_allclose(found.bend[:, 1:, 0], 0.5, atol=0.01)
    np.testing.assert_array_equal(found.bend[:, 0], 0.0)
    exact = np.diag([1.5**2, 1.0, 1.0])
    for root in found.scale:
        np.testing.assert_allclose(root @ root.T, exact, atol=0.02)
    straight = search(neal, starts, points_of(2, number, 3))
    assert np.all(straight.elbo < -0.1)


def test_a_bend_that_is_held_fast_leaves_a_gaussian():
    """So that one program serves a fit's first family and the next."""
    given = neal, [[1.0, 0.5, -0.3], [-2.0, 1.0, 1.0]], points_of(2, 128, 3)
    straight, held = search(*given), search(*given, bending=(0,), freedom=0)
    np.testing.assert_array_equal(held.bend, 0.0)
    assert np.all(held.promised <= TOLERANCE)
    traces = [  # rounding decides which iteration is the last
        np.where(np.isnan(x.elbos), x.elbo[:, None], x.elbos) for x in (straight, held)
    ]
    np.testing.assert_allclose(held.loc, straight.loc, atol=1e-3)
    np.testing.assert_allclose(*traces, atol=1e-3)


@pytest.mark.parametrize("is_diagonal", [True, False])
def test_products_sum_their_first_matrix_along_its_rows(is_diagonal):
    """For others XLA generates code when they first run, longer than all steps take."""
    newton = make_newton(
        lambda u, _: -jnp.sum(u**2), is_diagonal=is_diagonal, batch=1_000
    )
    real, none, eps = np.float32(0.0), np.zeros(3, "f"), points_of(1, 8, 3)[0]
    start = begun(none, np.eye(3, dtype="f"), np.zeros((3, 0), "f"))
    given = start, eps, eps.T, Best(none, none, real), 1, real, real, real, {}
    made = [x for x, _ in equations(jax.make_jaxpr(newton)(*given).jaxpr)]
    turned = {x.outvars[0] for x in made if x.primitive.name == "transpose"}
    products = [x for x in made if x.primitive.name == "dot_general"]
    assert len(products) >= 4
    for product in products:
        (summed, _), _ = product.params["dimension_numbers"]
        assert summed == (1,)
        assert product.invars[0] not in turned


def test_the_step_of_the_bend_counts_in_what_is_promised():
    """A search with the right mean and covariance is not there without its bend."""
    newton = make_newton(
        lambda u, _: neal(u), is_diagonal=False, batch=1_000, bending=(0,)
    )
    best = Best(np.zeros(3, "f"), np.zeros(3, "f"), np.float32(-np.inf))
    root = np.diag([1.5, 1.0, 1.0]).astype("f")
    bend, eps = np.zeros((3, 1), "f"), points_of(1, 4_096, 3)[0].astype("f")
    bent = bend + np.array([[0.0], [0.5], [0.5]], "f")
    when = 1, np.float32(TOLERANCE), np.float32(0.0), np.float32(1.0), {}
    loc, run = np.zeros(3, "f"), jax.jit(newton)
    noise = eps, eps.T
    straight, exact = (
        run(begun(loc, root, b), *noise, best, *when) for b in (bend, bent)
    )
    assert exact.promised <= TOLERANCE
    assert straight.promised >= straight.straightened > 0.05


@pytest.mark.parametrize("is_diagonal", [True, False])
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("below", [30, 1_000, 100_000])
def test_a_step_that_goes_as_far_beyond_the_top_is_followed_by_a_shorter_one(
    below, dim, is_diagonal
):
    """Where q's curvature is of fourth order in its width, widths go back and forth.

    The bound is then the same after each step, and never the worse for it. Thousands
    of nats below zero that is rounding, and so is all that is left to gain.
    """
    starts, points = np.ones((4, dim)), points_of(4, 64, dim)
    made = search(
        lambda u: -jnp.sum(u**4) - below, starts, points, is_diagonal=is_diagonal
    )
    assert np.all(made.promised <= TOLERANCE)
    assert np.max(made.count) < 40


def test_an_answer_from_fewer_points_is_worse():
    """In one dimension two points are always -1 and 1; the Gaussian rule of order 3."""
    loc, scale = best_for_gumbel()
    few = search(gumbel, np.zeros((8, 1)), points_of(8, 2, 1))
    many = search(gumbel, np.zeros((8, 1)), points_of(8, 256, 1))
    assert np.ptp(few.loc) < 0.01 * scale
    off, near = np.abs(few.loc - loc), np.abs(many.loc.mean() - loc)
    assert np.all(off > 3 * near)


def test_the_top_is_found_where_the_density_bends_up():
    """Far out a Cauchy is convex; a plain Newton step would run away."""

    def log_density(u):
        return -jnp.sum(jnp.log1p((u - 3.0) ** 2))

    starts = [[0.0, 40.0], [-30.0, 3.0]]
    found = search(log_density, starts, points_of(2, 256, 2))
    assert np.all(found.promised <= TOLERANCE)
    np.testing.assert_allclose(found.loc, 3.0, atol=0.2)


def test_a_q_that_is_too_wide_for_the_density_is_made_narrower():
    def log_density(u):
        return jnp.where(jnp.abs(u[0]) > 0.05, jnp.nan, -0.5 * jnp.sum((u / 0.01) ** 2))

    found = search(log_density, [[0.0], [1.0]], points_of(2, 64, 1))
    assert found.promised[0] <= TOLERANCE
    np.testing.assert_allclose(np.abs(found.scale[0]), 0.01, rtol=0.01)
    assert found.elbo[1] == -np.inf  # impossible all around


def test_a_flat_direction_never_arrives():
    found = search(lambda u: -((u[0] - u[1]) ** 2), [[3.0, 0.0]], points_of(1, 64, 2))
    assert found.promised[0] > 0.1


def test_the_limit_on_iterations_is_kept():
    found = search(gumbel, [[3.0]], points_of(1, 16, 1), limit=2)
    assert found.count[0] == 2
    assert found.promised[0] > TOLERANCE
    assert np.isfinite(found.elbos[0]).sum() == 2
    assert np.all(np.diff(found.elbos[0][:2]) > 0)


def test_a_search_far_below_one_that_arrived_is_given_up():
    def log_density(u):
        near, far = dist.Normal(0.0, 1.0), dist.Normal(1_000.0, 1.0)
        return jnp.logaddexp(near.log_prob(u[0]), far.log_prob(u[0]) - 500.0)

    points = points_of(2, 64, 1)
    found = search(log_density, [[0.0], [1_000.0]], points)
    assert found.promised[0] <= TOLERANCE < found.promised[1]
    alone = search(log_density, [[1_000.0]], points[1:])
    assert alone.promised[0] <= TOLERANCE
    assert alone.count[0] > found.count[1]


def test_points_in_batches_make_the_same_steps():
    points, starts = points_of(2, 64, 1), [[0.0], [3.0]]
    whole, parts = (search(gumbel, starts, points, batch=b) for b in (1_000, 10))
    np.testing.assert_allclose(whole.loc, parts.loc, rtol=1e-5)
    np.testing.assert_allclose(whole.elbos[:, :3], parts.elbos[:, :3], rtol=1e-5)
    np.testing.assert_allclose(whole.count, parts.count, atol=1)  # rounding decides


def test_a_search_that_comes_to_a_known_place_need_not_arrive():
    points = np.repeat(points_of(1, 64, 1), 2, 0)
    starts = [[0.0], [3.0]]
    arrived, near = (search(gumbel, starts, points, near=a) for a in (0.0, 1.0))
    assert np.all(arrived.promised <= TOLERANCE)
    assert near.promised[0] <= TOLERANCE < near.promised[1]
    assert 0 < near.count[1] < arrived.count[1]
    assert abs(near.loc[1] - near.loc[0]) < np.abs(near.scale[0])


# --- fits -----------------------------------------------------------------------------


def line(x, y):
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (2,)))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(10_000.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x, sigma), obs=y)


@pytest.mark.parametrize("guide", [guides.MeanField(), guides.FullRank()])
def test_a_flat_prior_on_a_large_scale_is_no_obstacle(guide):
    """Least squares in ten thousands, far from where every start begins."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=400).astype(np.float32)
    y = (31_000.0 + 7_000.0 * x + 9_000.0 * rng.normal(size=400)).astype(np.float32)
    fit = bbvi.fit(line, {"x": x, "y": y}, guide=guide, **QUIET)
    design = np.stack([np.ones(400), x], 1).astype(float)
    exact, residual, *_ = np.linalg.lstsq(design, y.astype(float))
    sd = np.sqrt(np.diagonal(np.linalg.inv(design.T @ design)) * residual[0] / 398)
    drawn = fit.draws(4_000)["beta"]
    assert fit.status is bbvi.Status.CONVERGED
    assert fit.history.step[-1] <= 2 * MAX_ITERATIONS
    np.testing.assert_allclose((drawn.mean(0) - exact) / sd, 0.0, atol=0.06)
    np.testing.assert_allclose(drawn.std(0) / sd, 1.0, atol=0.06)


def counts(y):
    """Three Poisson counts with rates of their own."""
    with numpyro.plate("rows", 3):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def test_three_seeds_agree_within_the_error_that_is_stated():
    data = {"y": jnp.array([0, 1, 4])}
    fits = [bbvi.fit(counts, data, seed=seed, **QUIET) for seed in range(3)]
    found = np.stack([fit.params["_joint.loc"] for fit in fits])
    for fit in fits:
        assert "Newton steps" in fit.history.note
    stated = max(float(f.history.note.split("error ")[1].split()[0]) for f in fits)
    sds = fits[0].plan.guide.units(fits[0].params)["_joint.loc"]
    assert 0 < stated <= 0.05
    assert np.all(np.ptp(found, 0) / sds < 4 * np.sqrt(2) * max(stated, 0.002))


@pytest.mark.parametrize("left", [0.0, 4e-4])
def test_what_is_left_to_go_may_be_along_one_coordinate(left, monkeypatch):
    """Half the squared distance, in standard deviations, is what it promises."""
    call = bbvi.deterministic.Deterministic._call

    def promising(*args, **kwargs):
        search = call(*args, **kwargs)
        return search._replace(promised=np.full_like(search.promised, left))

    monkeypatch.setattr("bbvi.deterministic.Deterministic._call", promising)
    fit = bbvi.fit(counts, {"y": jnp.array([0, 1, 4])}, **QUIET)
    stated = float(fit.history.note.split("error ")[1].split()[0])
    distance = np.sqrt(2 * left)
    assert distance <= stated + 5e-4
    assert left or stated < np.sqrt(2 * 4e-4)  # the noise alone does not make it so


def test_a_flat_valley_is_one_place():
    """A Gaussian creeps along a bend; two of these stopped three deviations apart."""

    def bent():
        x = numpyro.sample("x", dist.Normal(0.0, 1.5))
        numpyro.sample("y", dist.Normal(x**2, 0.2))

    fit = bbvi.fit(bent, guide=guides.FullRank(), **QUIET)
    assert "Newton steps" in fit.history.note
    assert fit.verdict.level is bbvi.Level.DO_NOT_TRUST
    assert "places" not in fit.verdict.reason


def test_double_precision_of_one_block_alone():
    """Such a setting belongs to a thread, and searches run on others."""
    with jax.enable_x64(True):  # noqa: FBT003
        fit = bbvi.fit(counts, {"y": jnp.array([0, 1, 4])}, **QUIET)
        assert "Newton steps" in fit.history.note
        assert fit.params["_joint.loc"].dtype == np.float64


def noisy(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    extra = jax.random.normal(numpyro.prng_key())
    numpyro.sample("y", dist.Normal(z + extra, 1.0), obs=y)


def with_parameter(y):
    scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
    z = numpyro.sample("z", dist.Normal(0.0, scale))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def minibatched(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y), subsample_size=2) as i:
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y[i])


def with_bit(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(z + b, 1.0), obs=y)


def chain(y):
    """States of a scan, which splits a key of its own that no density sees."""

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.8 * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    numpyro.contrib.control_flow.scan(step, 0.0, y)


Y = np.array([0.3, -1.2, 0.5], np.float32)
PHASES = {
    "summed out": (with_bit, Y[0], None, True),
    "factorised": (with_bit, Y[0], guides.MeanField(), True),
    "a scan": (chain, Y, None, True),
    "random density": (noisy, Y[0], None, False),
    "parameter": (with_parameter, Y[0], None, False),
    "minibatches": (minibatched, Y, None, False),
    "another family": (chain, Y, guides.LowRank(1), False),
}


@pytest.mark.parametrize("case", PHASES)
def test_who_has_a_deterministic_phase(case):
    model, y, guide, expected = PHASES[case]
    plan = bbvi.plan(model, {"y": y}, guide=guide)
    assert (default_programs(plan).newton is not None) is expected


def test_a_bit_with_a_score_function_has_none():
    asked = {"b": bbvi.estimators.ScoreFunction()}
    plan = bbvi.plan(with_bit, {"y": Y[0]}, estimators=asked)
    assert default_programs(plan).newton is None


def test_of_larger_models_only_the_best_start_is_followed(monkeypatch):
    data = {"y": jnp.array([0, 1, 4])}
    every = bbvi.fit(counts, data, **QUIET)
    monkeypatch.setattr("bbvi.deterministic.FOLLOWED", 1)
    alone = bbvi.fit(counts, data, **QUIET)
    lower = np.sort(alone.history.start_elbos)[:-1]
    assert alone.status is bbvi.Status.CONVERGED
    assert alone.elbo.value == pytest.approx(every.elbo.value, abs=0.01)
    assert np.isfinite(lower).all()
    assert np.mean(lower) < np.mean(every.history.start_elbos) - 1  # after one look


class Lazy:
    """A pool whose searches run when they are asked for, one after the other."""

    def __init__(self, count):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    map = staticmethod(map)


def test_of_two_searches_side_by_side_neither_knows_the_other(monkeypatch):
    """Else a fit would depend on which is quicker."""
    data = {"y": jnp.array([0, 1, 4])}
    fits = [bbvi.fit(counts, data, **QUIET)]
    monkeypatch.setattr("bbvi.deterministic.ThreadPoolExecutor", Lazy)
    fits.append(bbvi.fit(counts, data, **QUIET))
    monkeypatch.setattr("bbvi.deterministic.SIDE_BY_SIDE", 1)
    alone = bbvi.fit(counts, data, **QUIET)
    one, other = (fit.history for fit in fits)
    np.testing.assert_array_equal(one.elbo, other.elbo)
    np.testing.assert_array_equal(one.start_elbos, other.start_elbos)
    assert not np.array_equal(one.start_elbos, alone.history.start_elbos)


def test_searches_begin_around_the_centre_of_the_prior_or_around_zero(monkeypatch):
    """The program moves the mean to the centre, as far as it is asked to."""

    def model():
        numpyro.sample("level", dist.Normal(1000.0, 2.0))
        numpyro.sample("scale", dist.LogNormal(3.0, 0.4))

    newton = default_programs(bbvi.plan(model)).newton
    loc = np.array([0.5, -0.5], "f")
    start = begun(loc, 0.1 * np.eye(2, dtype="f"), np.zeros((2, 0), "f"))
    rest = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), newton.shapes[2:])
    for towards in (0.0, 1.0):
        expected = loc + towards * np.array([1000.0, 3.0 + 0.4**2 / 2])
        found = newton(start, np.float32(towards), *rest).loc
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    noted, call = [], bbvi.driving.Deterministic._call

    def noting(self, loc, scale, bend, towards, *rest):
        noted.append((loc, towards))
        return call(self, loc, scale, bend, towards, *rest)

    monkeypatch.setattr("bbvi.driving.Deterministic._call", noting)
    fit = bbvi.fit(model, num_starts=40, **QUIET)
    locs, towards = noted[0]
    assert np.abs(np.mean(locs, 0)).max() < 4 / np.sqrt(40)
    assert 0.5 < np.mean(towards) < 0.95  # three of four
    assert {*towards} == {0.0, 1.0}
    assert not np.any(noted[1][1])
    assert fit.status is bbvi.Status.CONVERGED


@pytest.mark.parametrize("redraws", [0, 3])
def test_starts_without_a_finite_bound_are_drawn_anew(redraws, monkeypatch):
    """Half of all starts lie where the density is not a number, however narrow."""
    monkeypatch.setattr("bbvi.deterministic.REDRAWS", redraws)

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.factor("edge", 200 * jnp.log(x[1]) - 50 * x[1])

    fits = [bbvi.fit(model, seed=seed, **QUIET) for seed in range(3)]
    finite = [np.isfinite(fit.history.start_elbos).mean() for fit in fits]
    assert all("Newton steps" in fit.history.note for fit in fits)
    assert 0.3 < np.mean(finite) < 0.7 if redraws == 0 else np.mean(finite) > 0.85


@pytest.mark.parametrize(("fails", "note"), [(1, "Newton steps"), (2, "plateau")])
def test_where_starts_fail_a_few_gradients_help(fails, note, monkeypatch):
    """Newton steps get a second chance from where stochastic ones lead."""
    calls, landed, begun = [], bbvi.driving.Deterministic.run, []

    def failing(self, starts):
        calls.append(starts)
        landing = landed(self, starts)
        begun.append(self.begun())
        return None if len(calls) <= fails else landing

    monkeypatch.setattr("bbvi.driving.Deterministic.run", failing)
    data = {"y": jnp.array([0, 1, 4])}
    fit = bbvi.fit(counts, data, **QUIET)
    assert note in fit.history.note
    assert len(calls) == 2
    assert calls[0] == []
    began = np.stack([params["_joint.loc"] for params in begun[0]])
    assert len(np.unique(began)) == began.size
    moved = [np.abs(params["_joint.loc"] - began).max(1) for params in calls[1]]
    assert np.min(moved) > 0.1
    monkeypatch.undo()
    whole = bbvi.fit(counts, data, **QUIET)
    assert fit.elbo.value == pytest.approx(whole.elbo.value, abs=0.01)
    assert fit.verdict.level is whole.verdict.level


def lopsided(y):
    """Two modes 60 deviations apart, the one far from every start 8 nats higher."""
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    near, far = ((mu - at) / 0.5 for at in (0.0, 30.0))
    numpyro.factor("y", jnp.logaddexp(-(near**2) / 2, 8.0 - far**2 / 2) + 0 * y)


@pytest.mark.parametrize(("is_known", "place"), [(True, 30.0), (False, 0.0)])
@pytest.mark.parametrize("fails", [1, 2])
def test_a_place_that_newton_steps_reached_is_not_lost(
    fails, is_known, place, monkeypatch
):
    """Though others never arrived, and gradients lead every start to a worse place."""
    calls, landed = [], bbvi.driving.Deterministic.run

    def failing(self, starts):
        landing = landed(self, starts)
        if not calls and is_known:
            self.reached[3] = self.reached[3] | {"mu.loc": np.array(30.0)}
            self.start_elbos[3] = 8.0
        calls.append(starts)
        return None if len(calls) <= fails else landing

    monkeypatch.setattr("bbvi.driving.Deterministic.run", failing)
    fit = bbvi.fit(lopsided, {"y": 0.0}, **QUIET)
    assert fit.status is bbvi.Status.CONVERGED
    assert fit.draws(1_000)["mu"].mean() == pytest.approx(place, abs=0.1)
    assert fit.history.start_elbos.shape == (8,)


@pytest.mark.parametrize(
    ("promised", "place", "num_calls"), [(700.0, 30.0, 3), (500.0, 0.0, 2)]
)
def test_a_start_whose_next_step_promises_to_catch_up_goes_on(
    promised, place, num_calls, monkeypatch
):
    """All others have arrived in one place, at 0 nats; it is at -600."""
    calls, call = [], bbvi.driving.Deterministic._call

    def unfinished(self, *given, **options):
        search = call(self, *given, **options)
        if not calls:
            search.loc[3], search.elbo[3], search.promised[3] = 30.0, -600.0, promised
        calls.append(len(given[0]))
        return search

    monkeypatch.setattr("bbvi.driving.Deterministic._call", unfinished)
    fit = bbvi.fit(lopsided, {"y": 0.0}, **QUIET)
    assert fit.draws(1_000)["mu"].mean() == pytest.approx(place, abs=0.1)
    assert calls == num_calls * [8]


@pytest.mark.parametrize("max_steps", [4, 70, 250])
@pytest.mark.parametrize("reached", [-1.0, 1e-2])
def test_no_more_steps_than_allowed_in_both_phases(max_steps, reached, monkeypatch):
    """Also where searches never arrive, and where the error is never small enough."""
    monkeypatch.setattr("bbvi.deterministic.EXPLORED_TO", reached)
    monkeypatch.setattr("bbvi.deterministic.ERROR", 0.0)
    fit = bbvi.fit(counts, {"y": jnp.array([0, 1, 4])}, max_steps=max_steps, **QUIET)
    assert fit.history.step[-1] <= max_steps
    assert fit.status is bbvi.Status.MAX_STEPS or fit.history.step[-1] > 20
    assert np.isfinite(fit.elbo.value)


def test_where_newton_steps_fail_gradients_go_on_from_there(monkeypatch):
    """Far from every start, as above, but no search may say that it has arrived."""
    monkeypatch.setattr("bbvi.deterministic.EXPLORED_TO", -1.0)
    x = np.linspace(-2.0, 2.0, 41, dtype=np.float32)
    data = {"x": x, "y": 31_000.0 + 7_000.0 * x + 900.0 * np.sin(9 * x)}
    fit = bbvi.fit(line, data, **QUIET)
    assert fit.status is bbvi.Status.CONVERGED
    assert "Newton" not in fit.history.note
    assert np.all(fit.history.start_elbos > fit.elbo.value - 50)
    exact = np.polyfit(x, data["y"], 1)[::-1]
    drawn = fit.draws(4_000)["beta"]
    np.testing.assert_allclose((drawn.mean(0) - exact) / drawn.std(0), 0.0, atol=0.1)
