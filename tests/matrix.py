"""The matrix of exact gradients: law x layout x setting x way, every cell of it.

A `Law` is the distribution of the latents, a layout the statements that they stand in,
a setting what stands around them (a minibatch, a scale, a mask), a `Way` the estimator
with its control variate. `case_of` turns the first three into a `Case` of
`tests/cases.py` with an exact bound; `refusal` says by a rule of its own, which owes
nothing to the planner, which cells do not exist and in which words they are refused. A
cell is either refused in those words or unbiased: none can vanish.
"""

import dataclasses
import itertools
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers

from bbvi import estimators, guides
from tests.cases import Case, exact_elbo, line, param, sample, scan, table

ROWS, COLUMNS, STEPS = 5, 2, 3


@dataclasses.dataclass(frozen=True)
class Law:
    """The distribution of every latent of a model, and its factor of q.

    Attributes:
        prior: From a linear predictor.
        factor: From unconstrained parameters, in the order of ``params``.
        params: Suffixes of the factor's parameters, each with the middle and the width
            of their values.
        values: All values that have weight, or nodes of a quadrature.
        cells: Their log weights.
        link: From a value to a number.
        values_in_table: Length of the last axis of the parameters; 0 if they have none.
        family: What `bbvi.plan` is given; None hands it the written guide.
    """

    prior: Callable[[Any], dist.Distribution]
    factor: Callable[..., dist.Distribution]
    params: dict[str, tuple[float, float]]
    values: np.ndarray
    cells: np.ndarray
    link: Callable[[Any], Any]
    values_in_table: int = 0
    family: Any = guides.MeanField()

    def draw(self, name, eta):
        """A latent of the model, as a number."""
        return self.link(sample(name, self.prior(jnp.asarray(eta))))

    def grid(self, shape):
        """Nodes of a site of a shape, and their log weights."""
        index = table(range(len(self.values)), *shape)
        weights = self.cells[index].reshape(len(index), -1).sum(-1)
        return self.values[index], weights

    def start(self, name, shape, rng):
        """Parameters at random."""
        whole = (*shape, self.values_in_table) if self.values_in_table else shape
        return {
            f"{name}.{suffix}": np.asarray(
                middle + width * rng.uniform(-1, 1, whole), np.float32
            )
            for suffix, (middle, width) in self.params.items()
        }


def three(eta):
    return dist.Categorical(logits=jnp.stack([0 * eta, eta, 0.4 - 0.5 * eta], -1))


def rare(eta):
    return dist.Poisson(jnp.exp(0.8 * jnp.tanh(eta)))


LEVELS = jnp.array([-0.6, 0.9, 1.7])


def real_line(number):
    """Nodes and their log weights."""
    values, cell = line(-4.0, 4.0, number)
    return {"values": values, "cells": np.full(number, cell)}


def half_line(number):
    """Nodes that are even in the logarithm."""
    logs, cell = line(-4.3, 2.1, number)
    return {"values": np.exp(logs), "cells": cell + logs}


LAWS = {
    "bernoulli": Law(
        lambda eta: dist.Bernoulli(logits=eta),
        lambda logits: dist.Bernoulli(logits=logits),
        {"logits": (0.2, 1.0)},
        np.arange(2),
        np.zeros(2),
        lambda z: 1.3 * z,
    ),
    "categorical": Law(
        three,
        lambda logits: dist.Categorical(logits=logits),
        {"table": (0.0, 0.9)},
        np.arange(3),
        np.zeros(3),
        lambda z: LEVELS[z],
        values_in_table=3,
    ),
    "poisson": Law(
        rare,
        lambda logits: dist.Geometric(logits=logits),
        {"logits": (0.8, 0.2)},
        np.arange(14),
        np.zeros(14),
        lambda z: 1.8 * jnp.tanh(z / 2),
        family=None,
    ),
    "poisson, own family": Law(
        rare,
        lambda mean, concentration: dist.NegativeBinomial2(
            jnp.exp(mean), jnp.exp(concentration)
        ),
        {"mean": (-0.3, 0.3), "concentration": (2.5, 0.2)},
        np.arange(14),
        np.zeros(14),
        lambda z: 1.8 * jnp.tanh(z / 2),
    ),
    "normal": Law(
        lambda eta: dist.Normal(1.5 * jnp.tanh(eta / 2), 1.0),
        lambda loc, scale: dist.Normal(loc, jnp.exp(scale)),
        {"loc": (0.1, 0.4), "scale": (-0.6, 0.1)},
        link=lambda z: jnp.tanh(z) + 0.3 * z,
        **real_line(20),
    ),
    "gamma": Law(
        lambda eta: dist.Gamma(3.0, 2.0 * jnp.exp(-jnp.tanh(eta / 2))),
        lambda a, b: dist.Gamma(jnp.exp(a), jnp.exp(b)),
        {"a": (1.5, 0.1), "b": (1.2, 0.1)},
        link=lambda z: 1.5 * jnp.tanh(z),
        family=None,
        **half_line(16),
    ),
}

# --- settings ------------------------------------------------------------------------

MASK = jnp.array([True, False, True, True, False])


@dataclasses.dataclass(frozen=True)
class Setting:
    """What stands around the statements.

    Attributes:
        batch: Rows in a minibatch; None for no minibatches.
        scale: Of the model, and of a guide that is written.
        row_scale: Likewise, around the plate of rows alone.
        is_masked: Whether some rows, steps or columns are masked.
    """

    batch: int | None = None
    scale: float = 1.0
    row_scale: float = 1.0
    is_masked: bool = False

    @contextmanager
    def scaled(self, plate):
        """The plate, with its scale."""
        has_scale = self.row_scale != 1
        scale = handlers.scale(scale=self.row_scale) if has_scale else nullcontext()
        with scale, plate as index:
            yield index

    def seen(self, index=()):
        """The statements under it are masked where the mask says so."""
        return handlers.mask(mask=MASK[index]) if self.is_masked else nullcontext()


SETTINGS = {
    "full": Setting(),
    "scale": Setting(scale=2.5),
    "mask": Setting(is_masked=True),
}
for _batch in (1, 2, 5):
    SETTINGS |= {
        f"minibatch of {_batch}": Setting(_batch),
        f"minibatch of {_batch}, scale": Setting(_batch, row_scale=2.5),
        f"minibatch of {_batch}, mask": Setting(_batch, is_masked=True),
    }

# --- layouts -------------------------------------------------------------------------

SHIFTS = jnp.array([0.0, 0.5, -0.4, 0.8, -0.2])
MIXES = jnp.array([[1.0, -0.6], [0.7, 0.5]])


@dataclasses.dataclass(frozen=True)
class Layout:
    """The statements that latents of a law stand in.

    Attributes:
        sites: Shapes of the latents, of the whole data.
        shape: Of the data.
        model: From law, data, minibatch and setting.
        guide: From the statement of a latent, minibatch and setting.
        local: Axis of the minibatch in each latent that has one.
    """

    sites: dict[str, tuple[int, ...]]
    shape: tuple[int, ...]
    model: Callable[..., Any]
    guide: Callable[..., Any]
    local: tuple[str, ...] = ()


def rows(batch, dim=-1):
    return numpyro.plate("rows", ROWS, batch, dim=dim)


def observe(name, loc, y, scale=0.8):
    sample(name, dist.Normal(loc, scale), obs=y)


def no_plate_model(law, y, batch, setting):
    z = law.draw("z", 0.3)
    with setting.scaled(rows(batch)) as index, setting.seen(index):
        observe("y", z + SHIFTS[index], y[index], 1.8)


def no_plate_guide(held, batch, setting):
    held("z")


def plate_model(law, y, batch, setting):
    with setting.scaled(rows(batch)) as index, setting.seen(index):
        z = law.draw("z", 0.3 - SHIFTS[index])
        observe("y", z, y[index])


def plate_guide(held, batch, setting):
    with setting.scaled(rows(batch)) as index, setting.seen(index):
        held("z", index)


def nested_model(law, y, batch, setting):
    with numpyro.plate("groups", 2, dim=-2):
        a = law.draw("a", 0.2 * jnp.ones((2, 1)))
        with setting.scaled(rows(batch)) as index, setting.seen(index):
            b = law.draw("b", 1.4 * a - 0.6 + SHIFTS[index])
            observe("y", 0.7 * a + b, y[:, index])


def nested_guide(held, batch, setting):
    with numpyro.plate("groups", 2, dim=-2):
        held("a")
        with setting.scaled(rows(batch)) as index, setting.seen(index):
            held("b", (slice(None), index))


def scan_model(law, y, batch, setting):
    plate = rows(batch)

    def step(before, inputs):
        y, at = inputs
        with setting.seen(at):
            z = law.draw("z", 3.0 * before - 2.0)
            with setting.scaled(plate) as index:
                observe("y", z + SHIFTS[index], y[index], 1.8)
        return z, None

    scan(step, jnp.zeros(()), (y, jnp.arange(STEPS)))


def scan_guide(held, batch, setting):
    with setting.seen(slice(STEPS)):
        held("z")


def loop_model(law, y, batch, setting):
    z, plate = jnp.zeros(()), rows(batch)
    for step in range(STEPS):
        with setting.seen(step):
            z = law.draw(f"z{step}", 3.0 * z - 2.0)
            with setting.scaled(plate) as index:
                observe(f"y{step}", z + SHIFTS[index], y[step][index], 1.8)


def loop_guide(held, batch, setting):
    for step in range(STEPS):
        with setting.seen(step):
            held(f"z{step}")


def batch_dims_model(law, y, batch, setting):
    """The data have an axis as long as the latent's, which is another one in truth."""
    z = law.draw("z", jnp.array([0.3, -0.5]))
    with setting.scaled(rows(batch, -2)) as index, setting.seen((index, None)):
        observe("y", MIXES @ z + SHIFTS[index][:, None], y[index], 1.2)


def coupled_model(law, y, batch, setting):
    """A plate whose elements are not independent: each sees the others."""
    with numpyro.plate("columns", COLUMNS):
        with setting.seen(slice(COLUMNS)):
            z = law.draw("z", jnp.array([0.3, -0.5]))
        with setting.scaled(rows(batch, -2)) as index:
            observe("y", MIXES @ z + SHIFTS[index][:, None], y[index], 1.2)


def coupled_guide(held, batch, setting):
    with numpyro.plate("columns", COLUMNS), setting.seen(slice(COLUMNS)):
        held("z")


_TWO = {"z": (COLUMNS,)}
LAYOUTS = {
    "no plate": Layout({"z": ()}, (ROWS,), no_plate_model, no_plate_guide),
    "plate": Layout({"z": (ROWS,)}, (ROWS,), plate_model, plate_guide, ("z",)),
    "nested plates": Layout(
        {"a": (2, 1), "b": (2, ROWS)}, (2, ROWS), nested_model, nested_guide, ("b",)
    ),
    "scan": Layout({"z": (STEPS,)}, (STEPS, ROWS), scan_model, scan_guide),
    "loop": Layout(
        {f"z{t}": () for t in range(STEPS)}, (STEPS, ROWS), loop_model, loop_guide
    ),
    "batch dims": Layout(_TWO, (ROWS, COLUMNS), batch_dims_model, no_plate_guide),
    "coupled plate": Layout(_TWO, (ROWS, COLUMNS), coupled_model, coupled_guide),
}

# --- cases ---------------------------------------------------------------------------


@cache
def case_of(law_name, layout_name, setting_name, summed=False):
    """Model, guide, parameters and exact bound; no estimators yet."""
    law, layout = LAWS[law_name], LAYOUTS[layout_name]
    setting = SETTINGS[setting_name]
    rng = np.random.default_rng([*map(ord, law_name + layout_name)])
    params = {}
    for name, shape in layout.sites.items():
        params |= law.start(name, shape, rng)

    def held(name, at=()):
        names = [f"{name}.{suffix}" for suffix in law.params]
        given = [jnp.asarray(param(n, params[n]))[at] for n in names]
        return sample(name, law.factor(*given))

    # A family's q has the plates and masks of the model, but not its powers.
    of_guide = setting
    if law.family is not None:
        of_guide = dataclasses.replace(setting, scale=1.0, row_scale=1.0)

    def model(y, batch=None):
        layout.model(law, y, batch, setting)

    def guide(y, batch=None):
        layout.guide(held, batch, of_guide)

    whole = Case(
        powered(model, setting.scale),
        {"y": rng.normal(0.6, 1.0, layout.shape).astype(np.float32)},
        powered(guide, of_guide.scale),
        params,
        family=law.family,
        detectable=0.15,
        summed=tuple(layout.sites) if summed else (),
    )
    batch = {} if setting.batch is None else {"batch": setting.batch}
    bound = exact_bound(law, layout, whole)
    return whole.but(data={**whole.data, **batch}, exact=bound)


def powered(program, scale):
    return program if scale == 1 else handlers.scale(program, scale=scale)


def exact_bound(law, layout, whole, by_rows=True):
    """The bound of all data: by rows where q has latents for each.

    It is the mean over rows of the bound of one row, which counts as often as there
    are rows: exact for everything but the logarithm of a sum.
    """

    def enumerated(shapes, data):
        grids = {name: law.grid(shape) for name, shape in shapes.items()}
        grid, cell = ({n: g[i] for n, g in grids.items()} for i in (0, 1))
        return whole.but(grid=grid, cell=cell, data=data)

    if whole.summed or not layout.local or not by_rows:
        return enumerated(layout.sites, whole.data).bound
    one_row = {
        name: (*shape[:-1], 1) if name in layout.local else shape
        for name, shape in layout.sites.items()
    }
    by_row = enumerated(one_row, {**whole.data, "batch": 1})

    def bound(params):
        def of_row(index):
            return exact_elbo(by_row, {**params, "rows": index})

        return jnp.mean(jax.vmap(of_row)(jnp.arange(ROWS)[:, None]))

    return bound


# --- ways ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Way:
    """An estimator of every latent.

    Attributes:
        estimator: With its control variate.
        num_particles: Draws of q.
        has_baselines: Whether it is given averages of the costs.
    """

    estimator: Any
    num_particles: int = 1
    has_baselines: bool = False


def controlled(control, num_particles):
    return Way(estimators.ScoreFunction(control_variate=control), num_particles)


WAYS = {
    "marginalized": Way(estimators.Marginalized()),
    "local expectation": Way(estimators.LocalExpectation()),
    "pathwise": Way(estimators.Reparameterized()),
    "sticking the landing": Way(estimators.Reparameterized(stick_the_landing=True)),
    "leave one out": controlled(estimators.LeaveOneOut(), 2),
    "running average": dataclasses.replace(
        controlled(estimators.RunningAverage(), 1), has_baselines=True
    ),
    "optimal scale": controlled(estimators.OptimalScale(), 3),
    "antithetic": controlled(estimators.Antithetic(), 2),
    "double control": controlled(estimators.DoubleControl(), 2),
    "sum and sample": controlled(estimators.SumAndSample(num_values=1), 2),
    "learned baseline": controlled(estimators.LearnedBaseline("y"), 1),
}
SLOW_LAW = "poisson, own family"
"""Its negative binomials take long to compile: one way is enough."""
CELLS = (
    *itertools.product([n for n in LAWS if n != SLOW_LAW], LAYOUTS, SETTINGS, WAYS),
    *itertools.product([SLOW_LAW], LAYOUTS, SETTINGS, ["leave one out"]),
)


def refusal(law_name, layout_name, setting_name, way_name):
    """How bbvi must refuse a cell; None for a cell that exists."""
    setting = SETTINGS[setting_name]
    finite = law_name in ("bernoulli", "categorical")
    discrete = finite or law_name.startswith("poisson")
    is_local = layout_name in ("no plate", "batch dims")
    if way_name == "marginalized":
        if not finite:
            return "it has no known finite support to sum over"
        if setting.is_masked and not is_local:
            return "it is masked, so its density does not sum to one"
        if setting.batch in (1, 2) and layout_name != "plate":
            return "its cost terms have different scales"
        if layout_name in ("batch dims", "coupled plate"):
            return "2 of its elements share cost terms, so they cannot be summed"
    if way_name == "local expectation" and not finite:
        return "it has no known finite support to sum over"
    if way_name in ("pathwise", "sticking the landing") and discrete:
        return "its draws jump as the parameters move"
    if way_name in ("antithetic", "double control") and law_name != "bernoulli":
        return "is no Bernoulli"
    if way_name == "sum and sample" and not discrete:
        return "it is continuous, its values cannot be summed"
    if way_name == "learned baseline" and layout_name not in ("plate", "nested plates"):
        return "its elements do not fall into the . rows of y"
    if way_name == "learned baseline" and layout_name == "plate" and setting.batch == 1:
        return "a minibatch of one row has no other rows to learn from"
    return None
