"""Where NumPyro's losses are silently wrong, `bbvi.ELBO` is right, or refuses.

Each test takes both through the same update of NumPyro's SVI, on the same model and
guide: ours must meet the exact gradient, theirs must miss it.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

import bbvi
from bbvi.estimators import ScoreFunction
from tests import cases, matrix
from tests.cases import param, sample
from tests.statistics import assert_biased, assert_unbiased
from tests.test_elbo import data_of, draws_of, plan_of, slowly, written
from tests.test_gradients import demands, exact_of

Renyi = functools.partial(RenyiELBO, 0.0)
"""Of one particle its bound is the ELBO."""


def right(case):
    """Ours is unbiased; the exact gradient and what must be seen of it."""
    exact = exact_of(case)
    wanted = demands(case, exact)
    assert_unbiased(draws_of(case), exact, **wanted)
    return exact, wanted


def wrong(case, loss, exact, wanted):
    """Theirs is not. Their bound may be right: it is the gradient that is judged."""
    wanted = {name: number[1:] for name, number in wanted.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        draws = draws_of(case, loss)
    assert_biased(draws[:, 1:], exact[1:], **wanted)
    return draws[:, 1:].mean(0)


def right_and_wrong(case, loss):
    exact, wanted = right(case)
    return exact[1:], wrong(case, loss, exact, wanted)


def graph(case):
    return TraceGraph_ELBO(case.num_particles)


# --- scales, chains, plates ----------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "factor"),
    [
        (written("minibatch of 2, written guide"), 2.5),
        pytest.param(
            written("minibatch of 1, written guide"), 5.0, marks=pytest.mark.slow
        ),
        pytest.param(
            written("scale 2 of model and guide, score"), 2.0, marks=pytest.mark.slow
        ),
    ],
    ids=["batch of 2", "batch of 1", "scale 2"],
)
def test_a_scale_enters_a_score_term_once(case, factor):
    """TraceGraph_ELBO scales the score and its cost: that factor, squared."""
    exact, found = right_and_wrong(case, graph(case))
    assert found @ exact / (exact @ exact) == pytest.approx(factor, rel=0.15)


@pytest.mark.slow
def test_path_and_score_gradients_meet_in_a_minibatch():
    """TraceGraph_ELBO weighs a score N/B times as much as the path it is added to."""
    case = written("mixed minibatch of 1, score", samples=10_000)
    right_and_wrong(case, graph(case))


def test_a_step_of_a_chain_bears_the_costs_of_later_steps():
    """TraceGraph_ELBO pays each step of a scan with the costs at that step alone."""
    case = written("scan, score of 2", num_particles=8, detectable=0.08)
    right_and_wrong(case, graph(case))


@pytest.mark.parametrize("steps", [2, *slowly(4)])
def test_a_chain_in_scan_is_summed_out_exactly(steps):
    """TraceEnum_ELBO returns what is not the evidence, for two steps even above it."""

    def model(y):
        def step(before, y):
            z = sample("z", dist.Bernoulli(jnp.where(before == 1, 0.8, 0.25)))
            sample("y", dist.Normal(1.3 * z, 0.7), obs=y)
            return z, None

        cases.scan(step, jnp.array(0), y)

    case = cases.CHAIN.but(
        model=model,
        data={"y": cases.CHAIN.data["y"][:steps]},
        guide=lambda y: None,
        params={},
        grid={"z": cases.bits(steps)},
        summed=("z",),
    )
    data = data_of(case)

    @jax.jit
    def all_three():
        given = jax.random.key(0), {}
        ours = bbvi.ELBO().loss(*given, model, case.guide, **data)
        marked = config_enumerate(model)
        theirs = TraceEnum_ELBO().loss(*given, marked, case.guide, **data)
        return case.bound({}), -ours, -theirs

    exact, ours, theirs = all_three()
    np.testing.assert_allclose(ours, exact, rtol=1e-5)
    assert abs(theirs - exact) > 0.1
    if steps == 2:
        assert theirs > exact


def test_axes_without_a_plate_are_not_taken_for_independent():
    """TraceGraph_ELBO multiplies score and cost element by element where shapes fit."""
    case = written("no plate, score")
    right_and_wrong(case, graph(case))


@pytest.mark.slow
def test_axes_without_a_plate_are_not_summed_one_by_one():
    """TraceEnum_ELBO does the same as TraceGraph_ELBO, with a guide that is summed."""
    case = written("no plate, score")
    exact, wanted = right(case)
    marked = case.but(
        model=config_enumerate(case.model), guide=config_enumerate(case.guide)
    )
    wrong(marked, TraceEnum_ELBO(), exact, wanted)


def test_a_plate_whose_elements_are_coupled_is_found_out():
    """TraceGraph_ELBO trusts the plate, and loses the costs of other elements."""
    case = written("coupled by sum, score")
    right_and_wrong(case, graph(case))


# --- latents that the guide leaves out -----------------------------------------------


@pytest.mark.parametrize("marks", [config_enumerate, *slowly(lambda model: model)])
def test_a_latent_that_the_guide_leaves_out_is_summed_out(marks):
    """TraceGraph_ELBO draws it from the prior; with marks it does not even warn."""
    case = written("mixture, summed out")
    exact, wanted = right(case)
    wrong(case.but(model=marks(case.model)), graph(case), exact, wanted)


@pytest.mark.parametrize("loss", [TraceEnum_ELBO(), TraceGraph_ELBO()])
def test_a_countable_latent_that_the_guide_leaves_out_is_refused(loss):
    """NumPyro's losses draw it from the prior; TraceEnum_ELBO says nothing."""
    case = cases.POISSON
    with pytest.raises(bbvi.PlanError, match=r"'z' \(Poisson\) has no statement"):
        plan_of(case, lambda y: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        value = loss.loss(
            jax.random.key(0), {}, case.model, lambda y: None, **data_of(case)
        )
    assert np.isfinite(value)


# --- samplers without the gradient that is taken through them ------------------------


@pytest.mark.parametrize("loss", [Trace_ELBO, *slowly(TraceMeanField_ELBO, Renyi)])
def test_a_countable_site_has_a_gradient(loss):
    """These losses take the gradient of the sampler, in which integers have none."""
    case = matrix.case_of("poisson", "no plate", "full")
    case = case.but(
        estimators={"z": cases.Score}, num_particles=2, detectable=0.15, samples=30_000
    )
    right_and_wrong(case, loss())


def test_the_weights_of_a_mixture_have_a_gradient():
    """Trace_ELBO takes that of its sampler, in which the weights have none."""
    case = written("mixture as a guide")
    right_and_wrong(case, Trace_ELBO(case.num_particles))


@pytest.mark.slow
def test_a_sampler_that_jax_cannot_differentiate_is_not_asked_to():
    """Trace_ELBO fails inside JAX's while loop, and names no site."""
    case = written("von mises")
    right(case)
    with pytest.raises(ValueError, match="Reverse-mode differentiation"):
        draws_of(case, Trace_ELBO(), samples=2)


def hurdle_model(y):
    mu = sample("mu", dist.HurdleGamma(0.4, 2.0, 1.5))
    sample("y", dist.Normal(mu, 0.7), obs=y)


def hurdle_guide(y):
    gate = jax.nn.sigmoid(param("gate", 0.0))
    a, b = jnp.exp(param("a", 0.0)), jnp.exp(param("b", 0.0))
    sample("mu", dist.HurdleGamma(gate, a, b))


@pytest.mark.slow
def test_the_gate_of_a_hurdle_has_a_gradient():
    """Trace_ELBO takes that of its sampler, in which the gate has none."""
    nodes, cell = cases.line(-5.0, 3.0, 80)
    case = cases.GAMMA.but(
        model=hurdle_model,
        guide=hurdle_guide,
        params={"gate": -0.2, "a": 1.3, "b": 1.0},
        grid={"mu": np.append(0.0, np.exp(nodes))},
        cell={"mu": np.append(0.0, cell + nodes)},
    )
    assert isinstance(plan_of(case).choices["mu"].estimator, ScoreFunction)
    right_and_wrong(case, Trace_ELBO(case.num_particles))


# --- densities that jump -------------------------------------------------------------


@pytest.mark.parametrize("loss", [TraceGraph_ELBO, *slowly(Trace_ELBO)])
@pytest.mark.parametrize("name", ["step, score", *slowly("rounding, score")])
def test_a_density_that_jumps_is_scored(name, loss):
    """NumPyro's losses differentiate through the jump, as if it were flat there."""
    case = written(name, estimators={}, num_particles=8)
    assert isinstance(plan_of(case).choices["mu"].estimator, ScoreFunction)
    right_and_wrong(case, loss(case.num_particles))


def loop_model(y):
    mu = sample("mu", dist.Normal(0.4, 1.1))
    steps = jax.lax.while_loop(lambda i: i < 2 * mu, lambda i: i + 1.0, 0.0)
    sample("y", dist.Normal(0.5 * steps, 0.7), obs=y)


def test_a_loop_that_a_latent_ends_is_scored():
    """NumPyro's losses differentiate its steps, whose number they hold."""
    points, cell = cases.line(-6.0, 7.0, 260)
    case = cases.NORMAL.but(
        model=loop_model,
        family=None,
        num_particles=8,
        grid={"mu": points},
        cell=cell,
    )
    assert isinstance(plan_of(case).choices["mu"].estimator, ScoreFunction)
    right_and_wrong(case, graph(case))


def callback_model(y):
    mu = sample("mu", dist.Normal(0.4, 1.1))
    seen = jax.pure_callback(np.tanh, mu, mu, vmap_method="broadcast_all")
    sample("y", dist.Normal(seen, 0.7), obs=y)


def test_a_callback_is_scored():
    """NumPyro's losses fail inside JAX, without a word about the site."""
    case = cases.NORMAL.but(model=callback_model, family=None, num_particles=8)
    assert isinstance(plan_of(case).choices["mu"].estimator, ScoreFunction)
    right(case)
    with pytest.raises(ValueError, match="Pure callbacks do not support"):
        draws_of(case, TraceGraph_ELBO(), samples=2)
