"""Every cell of the matrix of exact gradients is unbiased, or refused and says why."""

import dataclasses
import itertools
from functools import cache

import jax
import numpy as np
import pytest

import bbvi
from bbvi import objective, surrogates
from bbvi.planning import make_plan
from tests.matrix import (
    CELLS,
    LAWS,
    LAYOUTS,
    SLOW_LAW,
    WAYS,
    case_of,
    exact_bound,
    half_line,
    real_line,
    refusal,
)
from tests.statistics import assert_biased, assert_unbiased
from tests.test_gradients import (
    QUICKLY,
    demands,
    exact_of,
    params_of,
    sampler_of,
    trusting,
)

SAMPLES, DOUBLINGS = 4_000, 11
"""Gradients that are drawn at once; how often doubled where these cannot see enough."""
EXISTING = [cell for cell in CELLS if refusal(*cell) is None]
REFUSED = [cell for cell in CELLS if refusal(*cell) is not None]


@cache
def analysis_of(*names):
    case = case_of(*names)
    return bbvi.analyze(case.model, case.data)


def plan_of(law, layout, setting, way):
    case, way = case_of(law, layout, setting), WAYS[way]
    guide = case.guide if case.family is None else case.family
    asked = dict.fromkeys(LAYOUTS[layout].sites, way.estimator)
    return make_plan(analysis_of(law, layout, setting), guide, asked, way.num_particles)


@cache
def exact(*names, summed):
    return exact_of(case_of(*names, summed=summed))


def baselines_of(case, plan):
    """Averages of the costs, of other draws than those that are judged."""
    loss, data = bbvi.loss(plan), plan.analysis.arguments.arrays

    def seen(key):
        return loss(params_of(case), key, data)[1].costs

    keys = jax.random.split(jax.random.key(5), 200)
    costs = jax.jit(jax.vmap(seen), compiler_options=QUICKLY)(keys)
    return {name: cost.mean(0) for name, cost in costs.items()}


def draws_of(case, plan, way, wanted):
    """Bounds and gradients, as many as show an error that is worth finding."""
    baselines = baselines_of(case, plan) if WAYS[way].has_baselines else None
    sampler = sampler_of(case, plan, baselines)

    def part(seed):
        return np.asarray(sampler(jax.random.split(jax.random.key(seed), SAMPLES)))

    draws = part(0)
    for doubled in range(DOUBLINGS):
        error = draws.std(0) / np.sqrt(len(draws))
        if np.all(error < 0.09 * wanted["detectable"]):
            break
        more = [part(seed) for seed in range(2**doubled, 2 ** (doubled + 1))]
        draws = np.concatenate([draws, *more])
    return draws


def judged(cell, change=lambda plan: plan):
    """Draws of a cell, the exact answer, and what must be seen."""
    *names, way = cell
    summed = way == "marginalized"
    case, plan = case_of(*names, summed=summed), plan_of(*cell)
    answer = exact(*names, summed=summed)
    wanted = demands(case, answer)
    return draws_of(case, change(plan), way, wanted), answer, wanted


def spread(cells, number):
    """Few cells in which every value is seen, and many pairs of values meet."""
    chosen, seen = [], set()
    for _ in range(number):
        best = max(cells, key=lambda cell: [len(m - seen) for m in meetings(cell)])
        chosen.append(best)
        seen |= set.union(*meetings(best))
    return chosen


def meetings(cell):
    """Its values, and their pairs."""
    return [set(itertools.combinations(cell, size)) for size in (1, 2)]


FEW = spread(
    [
        c
        for c in EXISTING
        if c[0] != SLOW_LAW and c[1::2] != ("nested plates", "marginalized")
    ],
    12,
)


def listed(cells, kept):
    """Cells as parameters of a test, all but some slow."""
    return [
        pytest.param(
            cell, id=", ".join(cell), marks=[] if cell in kept else pytest.mark.slow
        )
        for cell in cells
    ]


@pytest.mark.parametrize("cell", listed(EXISTING, FEW))
def test_gradient_is_unbiased(cell):
    draws, answer, wanted = judged(cell)
    assert_unbiased(draws, answer, **wanted)


@pytest.mark.parametrize("cell", listed(REFUSED, REFUSED[::90]))
def test_a_cell_that_does_not_exist_is_refused_with_its_reason(cell):
    with pytest.raises(bbvi.PlanError, match=refusal(*cell)) as found:
        plan_of(*cell)
    sites = LAYOUTS[cell[1]].sites
    assert any(f"site {name!r}" in str(found.value) for name in sites)


def test_few_cells_show_every_value():
    assert {value for cell in FEW for value in cell} == {
        value for cell in EXISTING for value in cell
    } - {SLOW_LAW}


@pytest.mark.parametrize("layout", ["plate", "nested plates"])
def test_the_answer_by_rows_is_that_of_all_rows_together(layout):
    """A bound that is a mean over rows, against all configurations of all rows."""
    case = case_of("bernoulli", layout, "mask")
    bound = exact_bound(LAWS["bernoulli"], LAYOUTS[layout], case, by_rows=False)
    np.testing.assert_allclose(
        exact_of(case), exact_of(case.but(exact=bound)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("layout", ["no plate", "scan"])
@pytest.mark.parametrize(
    ("law", "finer"), [("normal", real_line), ("gamma", half_line)]
)
def test_more_nodes_change_no_answer(law, finer, layout):
    case = case_of(law, layout, "full")
    law = dataclasses.replace(LAWS[law], **finer(36))
    bound = exact_bound(law, LAYOUTS[layout], case)
    np.testing.assert_allclose(
        exact_of(case), exact_of(case.but(exact=bound)), rtol=3e-5, atol=3e-5
    )


# Negative controls: each is wrong on purpose, and must be found out.


def found_out(cell, change=lambda plan: plan):
    draws, answer, wanted = judged(cell, change)
    assert_biased(draws, answer, **{**wanted, "detectable": wanted["detectable"] / 3})


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


SCALES = {
    "minibatch of 1": 5.0,
    "minibatch of 2": 2.5,
    "minibatch of 2, scale": 6.25,
    "scale": 2.5,
}


@pytest.mark.parametrize(
    ("layout", "setting"),
    [
        (layout, setting) if at % 24 == 0 else slowly(layout, setting)
        for at, (layout, setting) in enumerate(itertools.product(LAYOUTS, SCALES))
    ],
)
def test_control_with_the_scale_twice(layout, setting, monkeypatch):
    honest = objective.score_surrogate
    monkeypatch.setattr(
        objective, "score_surrogate", lambda *args: SCALES[setting] * honest(*args)
    )
    found_out(("bernoulli", layout, setting, "leave one out"))


@pytest.mark.parametrize(
    ("law", "layout"),
    [
        ("categorical", "scan"),
        ("bernoulli", "batch dims"),
        ("poisson", "coupled plate"),
        slowly("bernoulli", "scan"),
        slowly("normal", "batch dims"),
        slowly("gamma", "coupled plate"),
    ],
)
def test_control_with_costs_element_by_element(law, layout):
    found_out((law, layout, "full", "leave one out"), trusting)


@pytest.mark.parametrize("law", ["poisson", slowly("gamma")])
@pytest.mark.parametrize("layout", ["scan", slowly("loop"), slowly("coupled plate")])
def test_control_with_a_mask_on_the_score(law, layout, monkeypatch):
    monkeypatch.setattr(surrogates, "unmask", lambda fn: fn)
    found_out((law, layout, "mask", "leave one out"))


@pytest.mark.parametrize(
    "layout", ["loop", *map(slowly, sorted({*LAYOUTS} - {"loop"}))]
)
def test_control_of_a_sum_without_its_own_density(layout, monkeypatch):
    """Values summed as if q gave each of them the same weight in the entropy."""
    monkeypatch.setattr(surrogates.Draw, "repeated", lambda *args: 0.0 * args[-1])
    found_out(("categorical", layout, "full", "local expectation"))
