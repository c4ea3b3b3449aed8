"""How good is a gradient for its time, on eight models with discrete latents?

Both sides have the same model, the same hand-written guide at the same parameters and
4 particles: NumPyro's `TraceGraph_ELBO` against `bbvi.loss` with the estimators that
bbvi chooses, and with a score function forced on every site. A figure is the total
variance of the gradient, which is its mean squared error as both are unbiased on these
models, times the microseconds that one takes. An exact gradient counts as one with the
error of rounding, `ROUNDING` of its length.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import TraceGraph_ELBO

from benchmarks._report import Figure, Row
from benchmarks._timing import attempt, interleave

NUM_PARTICLES, NUM_GRADIENTS = 4, 2_000
ROUNDING = 1e-6
NAME = "gradient_variance"
param, sample = numpyro.param, numpyro.sample
Program = Callable[..., Any]
Gradients = Callable[[jax.Array], jax.Array]


class Case(NamedTuple):
    """A model, its data and the guide of both sides."""

    model: Program
    data: Mapping[str, Any]
    guide: Program


def logits(name: str, *shape: int) -> dist.Distribution:
    """A Bernoulli factor with a parameter for each element, none of them at 0."""
    start = 0.7 * jnp.sin(1.0 + jnp.arange(math.prod(shape))).reshape(shape)
    return dist.Bernoulli(logits=param(f"{name}.logits", start))


def coin() -> Case:
    """One Bernoulli latent, 1,000 observations."""

    def model(y: jax.Array) -> None:
        z = sample("z", dist.Bernoulli(0.4))
        with numpyro.plate("rows", len(y)):
            sample("y", dist.Normal(0.3 * z, 1.0), obs=y)

    y = np.random.default_rng(0).normal(0.3, 1.0, 1_000).astype(np.float32)
    return Case(model, {"y": y}, lambda y: sample("z", logits("z")))


def mixture() -> Case:
    """Assignments of 200 rows to two components."""

    def model(y: jax.Array) -> None:
        with numpyro.plate("rows", len(y)):
            z = sample("z", dist.Bernoulli(0.4))
            sample("y", dist.Normal(2.0 * z, 1.0), obs=y)

    def guide(y: jax.Array) -> None:
        with numpyro.plate("rows", len(y)):
            sample("z", logits("z", len(y)))

    rng = np.random.default_rng(1)
    y = 2.0 * rng.integers(2, size=200) + rng.normal(size=200)
    return Case(model, {"y": y.astype(np.float32)}, guide)


def annotators() -> Case:
    """Classes of 100 items, from 5 annotators with known error rates."""
    confusion = 0.15 + 0.55 * jnp.eye(3)

    def model(y: jax.Array) -> None:
        with numpyro.plate("items", len(y)):
            c = sample("c", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))
            labels = dist.Categorical(confusion[c][:, None, :]).expand([len(y), 5])
            sample("y", labels.to_event(1), obs=y)

    def guide(y: jax.Array) -> None:
        start = 0.6 * jnp.sin(1.0 + jnp.arange(3.0 * len(y))).reshape(-1, 3)
        with numpyro.plate("items", len(y)):
            sample("c", dist.Categorical(logits=param("c.table", start)))

    y = np.random.default_rng(2).integers(3, size=(100, 5))
    return Case(model, {"y": y}, guide)


def zero_inflated() -> Case:
    """Which zeros of 200 counts are structural, with a learned gate."""

    def model(y: jax.Array) -> None:
        gate = sample("gate", dist.Bernoulli(0.5))
        with numpyro.plate("rows", len(y)):
            z = sample("z", dist.Bernoulli(0.2 + 0.5 * gate))
            sample("y", dist.Poisson(jnp.where(z == 1, 0.01, 2.0)), obs=y)

    def guide(y: jax.Array) -> None:
        sample("gate", logits("gate"))
        with numpyro.plate("rows", len(y)):
            sample("z", logits("z", len(y)))

    rng = np.random.default_rng(3)
    y = rng.poisson(2.0, 200) * rng.integers(2, size=200)
    return Case(model, {"y": y}, guide)


def chain() -> Case:
    """A Markov chain of 20 steps in a Python loop."""

    def model(y: jax.Array) -> None:
        z: Any = 0
        for t in range(20):
            z = sample(f"z{t}", dist.Bernoulli(jnp.where(z == 1, 0.8, 0.2)))
            sample(f"y{t}", dist.Normal(1.5 * z, 1.0), obs=y[t])

    def guide(y: jax.Array) -> None:
        start = 0.7 * jnp.sin(1.0 + jnp.arange(20.0))
        free = param("z.logits", start)
        for t in range(20):
            sample(f"z{t}", dist.Bernoulli(logits=free[t]))

    y = np.random.default_rng(4).normal(0.7, 1.0, 20).astype(np.float32)
    return Case(model, {"y": y}, guide)


def causes() -> Case:
    """A noisy-OR of 8 causes, 40 effects."""
    rng = np.random.default_rng(5)
    strength = jnp.asarray(rng.gamma(1.0, 0.8, (8, 40)), jnp.float32)

    def model(y: jax.Array) -> None:
        z = sample("z", dist.Bernoulli(0.2 * jnp.ones(8)).to_event(1))
        off = jnp.exp(-0.05 - z @ strength)
        with numpyro.plate("effects", 40):
            sample("y", dist.Bernoulli(1 - off), obs=y)

    y = rng.integers(2, size=40)
    return Case(model, {"y": y}, lambda y: sample("z", logits("z", 8).to_event(1)))


def grid() -> Case:
    """An Ising model on 6 x 6 spins with a field."""

    def model(field: jax.Array) -> None:
        z = sample("z", dist.Bernoulli(0.5 * jnp.ones((6, 6))).to_event(2))
        spin = 2.0 * z - 1.0
        down = jnp.pad(spin[1:] * spin[:-1], ((0, 1), (0, 0)))
        across = jnp.pad(spin[:, 1:] * spin[:, :-1], ((0, 0), (0, 1)))
        numpyro.factor("energy", 0.4 * (down + across) + field * spin)

    field = np.random.default_rng(6).normal(size=(6, 6)).astype(np.float32)
    guide = lambda field: sample("z", logits("z", 6, 6).to_event(2))  # noqa: E731
    return Case(model, {"field": field}, guide)


def counts() -> Case:
    """Latent Poisson counts of 50 rows."""

    def model(y: jax.Array) -> None:
        with numpyro.plate("rows", len(y)):
            n = sample("n", dist.Poisson(3.0))
            sample("y", dist.Normal(0.5 * n, 0.5), obs=y)

    def guide(y: jax.Array) -> None:
        start = 1.0 + 0.3 * jnp.sin(1.0 + jnp.arange(float(len(y))))
        with numpyro.plate("rows", len(y)):
            sample("n", dist.Poisson(jnp.exp(param("n.rate", start))))

    y = np.random.default_rng(7).normal(1.5, 1.0, 50).astype(np.float32)
    return Case(model, {"y": y}, guide)


CASES: dict[str, Callable[[], Case]] = {
    build.__name__: build
    for build in (
        coin,
        mixture,
        annotators,
        zero_inflated,
        chain,
        causes,
        grid,
        counts,
    )
}
SIDES = ("default", "score", "numpyro")


def run(repeats: int = 5) -> list[Row]:
    """Variance times microseconds on each model; means of the ratios; the coin."""
    rows: list[Row] = []
    ratios: dict[str, list[float]] = {"default": [], "score": []}
    deviations: dict[str, float] = {}
    for name, build in CASES.items():
        case, found = build(), {}
        for side in SIDES:
            measured = attempt(measure, case, side, repeats)
            is_good = not isinstance(measured, Exception)
            found[side] = measured[0] if is_good else measured
            if name == "coin" and is_good:
                deviations[side] = measured[1]
        for side, ratio in ratios.items():
            what = f"{name}, {side}, variance x us"
            rows.append(
                Row(NAME, what, "bbvi", found[side], "TraceGraph", found["numpyro"])
            )
            if not rows[-1].is_failed:
                ratio.append(rows[-1].comparison)
    one = Figure(1.0)
    for side, target in (("default", 0.01), ("score", 0.1)):
        if not ratios[side]:
            continue
        mean = Figure(statistics.geometric_mean(ratios[side]))
        what = f"{side}, geometric mean of {len(ratios[side])} ratios"
        rows.append(Row(NAME, what, "bbvi", mean, "TraceGraph", one, target))
        worst = Figure(max(ratios[side]))
        what = f"{side}, worst ratio"
        rows.append(Row(NAME, what, "bbvi", worst, "TraceGraph", one, 1.0))
    for side, target in (("default", 1e-3), ("score", 1.0), ("numpyro", None)):
        if side in deviations:
            figure, what = Figure(deviations[side]), "coin, deviation of a gradient"
            rows.append(Row(NAME, what, side, figure, "one", one, target))
    return rows


def measure(case: Case, side: str, repeats: int) -> tuple[Figure, float]:
    """Variance times microseconds a gradient, and the standard deviation."""
    gradients = of_numpyro(case) if side == "numpyro" else of_bbvi(case, side)
    many = jax.jit(lambda keys: jax.lax.map(gradients, keys))
    keys = jax.random.split(jax.random.key(0), NUM_GRADIENTS)
    found = np.asarray(many(keys), np.float64)
    floor = (ROUNDING * np.linalg.norm(found.mean(0))) ** 2
    variance = max(float(found.var(0).sum()), floor)

    def build() -> Callable[[], float]:
        def seconds() -> float:
            start = time.perf_counter()
            jax.block_until_ready(many(keys))
            return (time.perf_counter() - start) / NUM_GRADIENTS * 1e6

        return seconds

    micros = interleave({side: build}, repeats)[side]
    if isinstance(micros, Exception):
        raise micros
    scaled = Figure(*(variance * x for x in (micros.value, micros.low, micros.high)))
    return scaled, variance**0.5


def of_bbvi(case: Case, side: str) -> Gradients:
    """One gradient by `bbvi.loss`, flat."""
    import bbvi

    sites = handlers.trace(handlers.seed(case.guide, 0)).get_trace(**case.data)
    latents = [n for n, s in sites.items() if s["type"] == "sample"]
    forced = dict.fromkeys(latents, bbvi.estimators.ScoreFunction())
    plan = bbvi.plan(
        case.model,
        case.data,
        guide=case.guide,
        estimators=forced if side == "score" else None,
        num_particles=NUM_PARTICLES,
    )
    loss, params = bbvi.loss(plan), plan.init(jax.random.key(0))
    data = plan.analysis.arguments.arrays

    def gradient(key: jax.Array) -> jax.Array:
        slope, _ = jax.grad(loss, has_aux=True)(params, key, data)
        return jax.flatten_util.ravel_pytree(slope)[0]

    return gradient


def of_numpyro(case: Case) -> Gradients:
    """One gradient by `TraceGraph_ELBO`, flat."""
    sites = handlers.trace(handlers.seed(case.guide, 0)).get_trace(**case.data)
    params = {n: s["value"] for n, s in sites.items() if s["type"] == "param"}
    elbo = TraceGraph_ELBO(num_particles=NUM_PARTICLES)

    def gradient(key: jax.Array) -> jax.Array:
        def loss(params: Any) -> jax.Array:
            return elbo.loss(key, params, case.model, case.guide, **case.data)

        return jax.flatten_util.ravel_pytree(jax.grad(loss)(params))[0]

    return gradient
