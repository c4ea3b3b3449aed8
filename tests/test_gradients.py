"""Every estimator is unbiased, in every situation that it supports.

The mean of many gradients of `bbvi.loss` is compared with the exact gradient of the
exact bound; see `tests/cases.py`.
"""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import bbvi
from bbvi import objective
from tests import cases
from tests.statistics import assert_biased, assert_unbiased

GRADIENTS = cases.GRADIENTS


def params_of(case):
    params = jax.tree.map(jnp.asarray, dict(case.params))
    kept = [n for n in params if not any(n.startswith(f"{s}.") for s in case.summed)]
    return {n: params[n] for n in kept}


def plan_of(case):
    return bbvi.plan(
        case.model,
        case.data,
        guide=case.guide if case.family is None else case.family,
        estimators=case.estimators,
        num_particles=case.num_particles,
    )


def draws_of(case, plan, baselines=None, seed=0):
    """Bound and gradient by each of many keys, `(samples, 1 + parameters)`."""
    params, data = params_of(case), plan.analysis.arguments.arrays
    loss = bbvi.loss(plan)

    def one(key):
        (_, info), slope = jax.value_and_grad(loss, has_aux=True)(
            params, key, data, baselines
        )
        flat, _ = jax.flatten_util.ravel_pytree(slope)
        return jnp.concatenate([info.elbo[None], -flat])

    keys = jax.random.split(jax.random.key(seed), case.samples)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def exact_of(case):
    """Exact bound and gradient."""

    @jax.jit
    def both(params):
        value, slope = jax.value_and_grad(case.bound)(params)
        return value, jax.flatten_util.ravel_pytree(slope)[0]

    value, flat = both(params_of(case))
    return np.concatenate([np.asarray(value)[None], np.asarray(flat)])


def demands(case, exact):
    return {"detectable": case.detectable * max(1.0, np.abs(exact).max())}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_unbiased(name):
    case = GRADIENTS[name]
    plan = plan_of(case)
    for site, estimator in case.estimators.items():
        assert plan.choices[site].estimator == estimator
    assert set(plan.marginalized) == set(case.summed)
    assert set(params_of(case)) == set(plan.parameters)
    exact = exact_of(case)
    assert_unbiased(draws_of(case, plan), exact, **demands(case, exact))
