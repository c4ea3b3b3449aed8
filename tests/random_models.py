"""Small models at random, each with its exact gradient: what nobody thought of.

A `Program` is a list of nodes, in order; every node may depend on any before it. Nodes
are global or stand in the plate of rows, whose elements parents may couple by a sum or
a shift. `case_of` turns it into a `Case` of `tests/cases.py`, whose oracle enumerates.
"""

import dataclasses
import math
from contextlib import nullcontext

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from bbvi import estimators, guides
from tests.cases import Case, line, param, sample, table

ROWS, STEPS = 3, 3
RANGES = {"scale": (-0.9, 0.0), "mean": (-1.0, 0.2), "concentration": (2.0, 3.0)}
"""Of parameters: the factor lies within the grid, and no rare draw decides."""
MAX_GRID = 2_000
"""Combinations of latent values that the oracle may sum over."""
VALUES = {"bernoulli": 2, "categorical": 3, "poisson": 40, "normal": 100}
Controls = (
    estimators.LeaveOneOut(),
    estimators.OptimalScale(),
    estimators.Antithetic(),
    estimators.DoubleControl(),
    estimators.SumAndSample(num_values=2),
)
Overrides = (
    None,
    estimators.LocalExpectation(),
    *(estimators.ScoreFunction(control_variate=control) for control in Controls),
)


@dataclasses.dataclass(frozen=True)
class Node:
    """One statement: a latent, or an observation.

    Attributes:
        name: Of the site.
        kind: Its distribution.
        in_rows: Whether it stands in the plate.
        parents: Names of earlier latents, and how those in the plate are joined:
            `each`, `sum` or `shift`.
        observed: Whether it is data.
        override: Estimator asked for; default the plan's.
    """

    name: str
    kind: str
    in_rows: bool
    parents: tuple[tuple[str, str], ...] = ()
    observed: bool = False
    override: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
    """Nodes, what stands around them, and the family.

    Attributes:
        nodes: In order; the first are latent.
        chain: Whether a Bernoulli chain in NumPyro's scan starts from the first latent.
        scale: Of the plate's observations.
        mask: Whether one row's observations are masked.
        latent_scale: Of the latents, in the model.
        latent_mask: Whether one row's latents are masked.
        batch: Rows in a minibatch; 0 for all.
        custom: Whether the guide is written out, with parents in its order.
        seed: Of all numbers.
    """

    nodes: tuple[Node, ...]
    chain: bool = False
    scale: float = 1.0
    mask: bool = False
    latent_scale: float = 1.0
    latent_mask: bool = False
    batch: int = 0
    custom: bool = False
    seed: int = 0

    @property
    def latents(self) -> tuple[Node, ...]:
        """Nodes that are not data."""
        return tuple(node for node in self.nodes if not node.observed)


def size_of(nodes, chain):
    """Rows of the oracle's grid."""
    sizes = [VALUES[n.kind] ** (ROWS if n.in_rows else 1) for n in nodes]
    return math.prod(sizes) * (2**STEPS if chain else 1)


@st.composite
def programs(draw, overridden=True, most=4):
    """Programs of up to so many latents and two observations."""
    batch = draw(st.sampled_from([0, 0, 0, 1, 2]))
    chain = draw(st.integers(0, 3)) == 0 and not batch
    nodes: list[Node] = []
    for index in range(draw(st.integers(1, most))):
        in_rows = draw(st.booleans())
        kinds = ["bernoulli", "categorical"]
        if not in_rows and not any(n.kind in ("poisson", "normal") for n in nodes):
            kinds += ["poisson", "normal"]
        node = Node(
            f"z{index}",
            draw(st.sampled_from(kinds)),
            in_rows,
            draw(parents(nodes, in_rows, batch)),
            override=draw(st.integers(0, len(Overrides) - 1)) if overridden else 0,
        )
        if size_of([*nodes, node], chain) <= MAX_GRID:
            nodes.append(node)
    latents = list(nodes)
    for index in range(draw(st.integers(1, 2))):
        in_rows = bool(batch) or draw(st.booleans())
        some = draw(parents(latents, in_rows, batch, at_least=index == 0))
        kind = draw(st.sampled_from(["normal", "bernoulli", "poisson"]))
        nodes.append(Node(f"y{index}", kind, in_rows, some, observed=True))
    return Program(
        tuple(nodes),
        chain,
        draw(st.sampled_from([1.0, 1.0, 2.0])),
        draw(st.booleans()),
        draw(st.sampled_from([1.0, 1.0, 1.0, 0.5])),
        draw(st.integers(0, 3)) == 0,
        batch,
        draw(st.booleans()),
    )


@st.composite
def parents(draw, before, in_rows, batch, at_least=False):
    """Some of the earlier latents, those of the plate with their coupling.

    In a minibatch rows are not coupled: a sum over those drawn is another model.
    """
    allowed = [n for n in before if not (batch and n.in_rows and not in_rows)]
    if not allowed:
        return ()
    names = draw(
        st.lists(
            st.sampled_from([n.name for n in allowed]),
            unique=True,
            min_size=int(at_least),
            max_size=3,
        )
    )
    rows = {n.name for n in allowed if n.in_rows}
    ways = ["each"] if batch else ["each", "sum", "shift"]
    return tuple(
        (name, draw(st.sampled_from(ways)) if name in rows else "each")
        for name in names
    )


def level(numbers, node, values, rows):
    """The linear predictor of a node, `()` or one a row."""
    total = numbers[node.name, "level"]
    for name, how in node.parents:
        value = jnp.asarray(values[name], float)
        if name in rows and (how == "sum" or not node.in_rows):
            value = value.sum(-1) / 2
        elif name in rows and how == "shift":
            value = jnp.roll(value, 1, -1)
        total = total + numbers[node.name, name] * value
    return total


def distribution(kind, eta):
    """A distribution of this kind."""
    if kind == "bernoulli":
        return dist.Bernoulli(logits=eta)
    if kind == "categorical":
        eta = jnp.asarray(eta)
        return dist.Categorical(
            logits=jnp.stack([0 * eta, eta, 0.3 - 0.5 * eta], axis=-1)
        )
    if kind == "poisson":
        return dist.Poisson(1.3 * jnp.exp(0.5 * jnp.tanh(eta)))
    return dist.Normal(2 * jnp.tanh(eta / 2), 0.9)


def factor(node, index):
    """The factor of bbvi's own families, its parameters unconstrained."""
    name, shape = node.name, (ROWS,) if node.in_rows else ()
    at = () if index is None else index
    if node.kind == "bernoulli":
        return dist.Bernoulli(logits=param(f"{name}.logits", jnp.zeros(shape))[at])
    if node.kind == "categorical":
        logits = param(f"{name}.table", jnp.zeros((*shape, VALUES[node.kind])))
        return dist.Categorical(logits=logits[at])
    if node.kind == "poisson":
        mean = jnp.exp(param(f"{name}.mean", 0.0))
        return dist.NegativeBinomial2(
            mean, jnp.exp(param(f"{name}.concentration", 0.0))
        )
    loc, scale = param(f"{name}.loc", 0.0), param(f"{name}.scale", 0.0)
    return dist.Normal(loc, jnp.exp(scale))


def custom_factor(node, values, rows, index):
    """A factor of a written guide, which depends on earlier draws as in the model."""
    eta = param(f"{node.name}.a", 0.0)
    for name, how in node.parents:
        value = jnp.asarray(values[name], float)
        if name in rows and (how == "sum" or not node.in_rows):
            value = value.sum(-1) / 2
        eta = eta + param(f"{node.name}.{name}", 0.0) * value
    return distribution(
        node.kind, eta if index is None else eta + jnp.zeros(len(index))
    )


def case_of(program):
    """Model, guide, parameters and grid."""
    numbers = _Numbers(program.seed)
    rows = {n.name for n in program.nodes if n.in_rows}
    mask = jnp.arange(ROWS) != 1

    def plate(batch):
        return numpyro.plate("rows", ROWS, batch)

    def latent(node, fn, index):
        is_masked = program.latent_mask and node.in_rows
        return sample(node.name, fn.mask(mask[index]) if is_masked else fn)

    def statement(node, values, data, batch):
        with plate(batch) if node.in_rows else nullcontext() as index:
            eta = level(numbers, node, values, rows)
            if node.in_rows:
                eta = jnp.broadcast_to(eta, index.shape)
            fn = distribution(node.kind, eta)
            if not node.observed:
                with handlers.scale(scale=program.latent_scale):
                    return latent(node, fn, index)
            if not node.in_rows:
                return sample(node.name, fn, obs=data[node.name])
            with handlers.scale(scale=program.scale):
                fn = fn.mask(mask[index]) if program.mask else fn
                return sample(node.name, fn, obs=data[node.name][index])

    def model(batch=None, **data):
        values = {}
        for node in program.nodes:
            values[node.name] = statement(node, values, data, batch)
        if program.chain:
            first = values[program.nodes[0].name]

            def step(before, y):
                c = sample("c", dist.Bernoulli(logits=0.9 * before - 0.4))
                sample("e", dist.Normal(1.2 * c, 0.8), obs=y)
                return jnp.asarray(c, float), None

            scan(step, jnp.sum(jnp.asarray(first, float)), data["e"])

    def guide(batch=None, **data):
        values = {}
        for node in program.latents:
            with plate(batch) if node.in_rows else nullcontext() as index:
                if program.custom:
                    fn = custom_factor(node, values, rows, index)
                else:
                    fn = factor(node, index)
                values[node.name] = latent(node, fn, index)
        if program.chain:
            sample("c", dist.Bernoulli(logits=param("c.logits", jnp.zeros(STEPS))))

    data = _data(numbers, program)
    cell = 0.0
    grid = {}
    for node in program.latents:
        shape = (ROWS,) if node.in_rows else ()
        if node.kind == "normal":
            grid[node.name], cell = line(-7.5, 7.5, VALUES["normal"])
        else:
            grid[node.name] = table(range(VALUES[node.kind]), *shape)
    if program.chain:
        grid["c"] = table([0, 1], STEPS)
    return Case(
        model,
        {**data, "batch": program.batch} if program.batch else data,
        guide,
        _params(numbers, program, guide, data),
        grid,
        cell,
        family=None if program.custom else guides.MeanField(),
        whole=data if program.batch else None,
    )


class _Numbers(dict):
    """Numbers by name, made on first use from the seed and the name."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def __missing__(self, key):
        words = [self.seed, *map(ord, "/".join(key))]
        number = np.random.default_rng(words).normal() * 0.8
        self[key] = np.float32(number + math.copysign(0.2, number))
        return self[key]


def _data(numbers, program):
    data = {}
    for node in program.nodes:
        if node.observed:
            shape = (ROWS,) if node.in_rows else ()
            flat = [numbers[node.name, f"data {i}"] for i in range(math.prod(shape))]
            real = np.array(flat, np.float32).reshape(shape)
            counts = np.abs(np.round(1.5 * real)).astype(int)
            kinds = {"normal": real, "bernoulli": counts % 2, "poisson": counts}
            data[node.name] = kinds[node.kind]
    if program.chain:
        data["e"] = np.array([numbers["e", str(i)] for i in range(STEPS)], np.float32)
    return data


def _params(numbers, program, guide, data):
    batch = {"batch": program.batch} if program.batch else {}

    def start():
        trace = handlers.trace(handlers.seed(guide, 0)).get_trace(**data, **batch)
        params = (s for s in trace.values() if s["type"] == "param")
        return {site["name"]: site["value"] for site in params}

    params = {}
    for name, value in jax.eval_shape(start).items():
        flat = [0.6 * numbers[name, str(i)] for i in range(value.size)]
        low, high = RANGES.get(name.rpartition(".")[2], (-3.0, 3.0))
        flat = np.clip(flat, low, high)
        params[name] = np.array(flat, np.float32).reshape(value.shape)
    return params
