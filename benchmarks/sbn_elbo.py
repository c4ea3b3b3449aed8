"""On a model that cannot be enumerated, how much better is bbvi's bound?

Sigmoid belief network on all 1,797 digits, 1,500 Adam steps at 3e-3 and 4 particles:
NumPyro's `TraceGraph_ELBO` (score function, no control variate) against `bbvi.fit`
with the estimator it chooses, and a hand-written loop with the leave-one-out baseline
beside them, which shows what that estimator alone can reach. The bounds are recomputed
from 100 draws of the guide; a fit's seconds include its compilation.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import optax
from numpyro.infer import SVI, TraceGraph_ELBO
from numpyro.optim import Adam

from benchmarks import _sbn
from benchmarks._report import Figure, Row
from benchmarks._timing import interleave
from benchmarks.step_sbn import floor_loss

NUM_PARTICLES, NUM_STEPS, RATE = 4, 1_500, 3e-3
TARGET = 18.8


def run(repeats: int = 3) -> list[Row]:
    """$-$ELBO an image, and seconds a fit."""
    bounds: dict[str, Figure] = {}

    def build(side: str, fit: Callable[[], dict[str, jax.Array]]) -> Any:
        def measure() -> float:
            start = time.perf_counter()
            params = jax.block_until_ready(fit())
            seconds = time.perf_counter() - start
            bounds[side] = _sbn.bound(params, _sbn.data()["x"])
            return seconds

        return lambda: measure

    sides = {"bbvi": fit_ours, "numpyro": fit_numpyro, "floor": fit_floor}
    seconds = interleave({s: build(s, fit) for s, fit in sides.items()}, repeats)
    ours, rival, floor = (
        figure if isinstance(figure, Exception) else bounds[side]
        for side, figure in seconds.items()
    )
    time_ours, time_rival, time_floor = seconds.values()
    name, wanted = "TraceGraph_ELBO", Figure(TARGET)
    both = ("sbn_elbo", "-ELBO an image", "bbvi", ours)
    times = ("sbn_elbo", "s a fit", "bbvi", time_ours)
    return [
        Row(*both, "wanted", wanted, target=0.0, compare="difference"),
        Row(*both, name, rival, target=0.0, compare="difference"),
        Row(*both, "jax floor", floor, compare="difference"),
        Row(*times, name, time_rival, target=1.0),
        Row(*times, "jax floor", time_floor),
    ]


def fit_ours() -> dict[str, jax.Array]:
    """Parameters by name after `bbvi.fit` with its own choice of estimator."""
    import bbvi

    fit = bbvi.fit(
        _sbn.model,
        _sbn.data(),
        guide=_sbn.guide,
        num_particles=NUM_PARTICLES,
        max_steps=NUM_STEPS,
        optimizer=optax.adam(RATE),
        progress=False,
    )
    return named_leaves(fit.params, tuple(_sbn.start()))


def fit_numpyro() -> dict[str, jax.Array]:
    """Parameters by name after `SVI.run`."""
    loss = TraceGraph_ELBO(num_particles=NUM_PARTICLES)
    svi = SVI(_sbn.model, _sbn.guide, Adam(RATE), loss)
    key = jax.random.key(0)
    return svi.run(key, NUM_STEPS, progress_bar=False, **_sbn.data()).params


def fit_floor() -> dict[str, jax.Array]:
    """Parameters after the hand-written steps of `step_sbn`."""
    optimizer, data = optax.adam(RATE), _sbn.data()

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        grads, _ = jax.grad(floor_loss(), has_aux=True)(params, key, data)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def optimize(params: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key, NUM_STEPS)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return optimize(_sbn.start(), jax.random.key(0))


def named_leaves(tree: Any, names: tuple[str, ...]) -> dict[str, jax.Array]:
    """The leaves whose path ends in one of the names, wherever they lie in the tree.

    Raises:
        KeyError: A name ends the path of no leaf, or of several.
    """
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-1], leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    found = [name for name, _ in leaves if name in names]
    if sorted(found) != sorted(names):
        raise KeyError(f"Expected one leaf for each of {names}; found {found}.")
    return {name: leaf for name, leaf in leaves if name in names}
