"""Models that hypothesis makes up have unbiased gradients, whatever is asked for."""

import contextlib
import dataclasses

import hypothesis
import jax
import numpy as np
import pytest

import bbvi
from bbvi.estimators import controls
from bbvi.planning import make_plan
from tests.random_models import Overrides, Program, case_of, programs
from tests.statistics import assert_unbiased
from tests.test_gradients import demands, exact_of, sampler_of

SAMPLES, PARTS = 4_000, 10
"""Gradients that are drawn at once, and how often where these see no error."""
BLIND = 0.2
"""Fraction of models whose gradient may be too noisy to be judged."""


def planned(program):
    """The case and its plan, with all those overrides that the plan takes together."""
    case = case_of(program)
    analysis = bbvi.analyze(case.model, case.data)
    guide = case.guide if case.family is None else case.family
    taken = {}
    plan = make_plan(analysis, guide, taken, case.num_particles)
    for node in program.latents:
        if node.override:
            more = {**taken, node.name: Overrides[node.override]}
            with contextlib.suppress(bbvi.PlanError):
                plan = make_plan(analysis, guide, more, case.num_particles)
                taken = more
    return case.but(estimators=taken, summed=tuple(plan.marginalized)), plan


def judge(program):
    """What is wrong with the gradient; None if it is too noisy to tell."""
    case, plan = planned(program)
    exact = exact_of(case)
    sampler = sampler_of(case, plan)
    draws = []
    for part in range(PARTS):
        keys = jax.random.split(jax.random.key(program.seed + part), SAMPLES)
        draws.append(np.asarray(sampler(keys)))
        if part not in (0, PARTS - 1):
            continue
        try:
            assert_unbiased(np.concatenate(draws), exact, **demands(case, exact))
        except AssertionError as error:
            if "cannot see" in str(error):
                continue
            return f"{error}\n{program}\n{plan}"
        return ""
    return None


def check(number, seed, overridden=True, most=4):
    """That many models, no two alike; the first that is biased is shown."""
    found = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=3 * number,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(programs(overridden, most))
    def unbiased(program):
        if program not in found and len(found) < number:
            numbered = dataclasses.replace(program, seed=1_000 * seed + len(found))
            found[program] = judge(numbered)
            assert not found[program], found[program]

    unbiased()
    assert len(found) == number
    blind = sum(wrong is None for wrong in found.values())
    assert blind <= max(1, BLIND * number), f"{blind} of {number} unseen"


MANY = [pytest.param(10, seed, marks=pytest.mark.slow) for seed in range(5)]


@pytest.mark.parametrize(("number", "seed"), [(3, 2), *MANY])
def test_random_models_have_unbiased_gradients(number, seed):
    check(number, seed, overridden=seed > 1, most=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_a_thousand_random_models_have_unbiased_gradients(seed):
    check(25, seed, overridden=seed % 4 > 0)


def examples(number, seed, wanted):
    """Programs that fulfil a condition."""
    found: list[Program] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=500,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(programs())
    def collect(program):
        if len(found) < number and wanted(program) and program not in found:
            found.append(program)

    collect()
    assert len(found) == number
    return found


def scored(program):
    """The program with every latent left to a score function with leave-one-out."""
    nodes = tuple(
        node if node.observed else dataclasses.replace(node, override=2)
        for node in program.nodes
    )
    return dataclasses.replace(program, nodes=nodes)


@pytest.mark.slow
def test_control_baselines_that_know_their_own_particle(monkeypatch):
    """Most random models show it, so that the thousand would."""

    def with_own(costs):
        return costs.mean(0, keepdims=True)

    some = [scored(p) for p in examples(4, 0, lambda p: not p.batch)]
    assert all(judge(p) == "" for p in some[:2])
    monkeypatch.setattr(controls, "leave_one_out", with_own)
    assert sum(bool(judge(p)) for p in some) >= 2
