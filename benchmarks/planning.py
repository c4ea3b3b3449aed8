"""Does planning stay out of the way?

Seconds of `bbvi.plan`, analysis included, for every model of the zoo, the first call in
a process that has made one array; and for models of 1, 2, 4 and 8 times as many
statements, what twice as many cost.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from benchmarks._report import Figure, Row
from benchmarks._timing import attempt
from models import NAMES, load

TARGET, DOUBLED = 0.5, 2.4
SIZES = (25, 50, 100, 200)


def run(repeats: int = 3) -> list[Row]:
    """Seconds a plan, and their growth."""
    import bbvi

    jax.block_until_ready(jnp.zeros(1) + 1)

    def plan(model: Any, data: Any, guide: Any) -> float:
        start = time.perf_counter()
        bbvi.plan(model, data, guide=guide)
        return time.perf_counter() - start

    rows = []
    for name in NAMES:
        module = load(name)
        data, guide = module.data(), getattr(module, "guide", None)
        seconds = attempt(plan, module.model, data, guide)
        figure = seconds if isinstance(seconds, Exception) else Figure(seconds)
        rows.append(Row("planning", name, "s a plan", figure, "s", Figure(1.0), TARGET))
    growth = [
        Figure.of_samples([plan(chain(size), {}, None) for _ in range(repeats)])
        for size in SIZES
    ]
    for size, before, after in zip(SIZES[1:], growth, growth[1:], strict=False):
        what = f"{size} statements, s"
        rows.append(
            Row("planning", what, "bbvi", after, "half as many", before, target=DOUBLED)
        )
    return rows


def chain(size: int) -> Callable[[], None]:
    """A walk of that many steps, each with an observation."""

    def model() -> None:
        z: Any = 0.0
        for t in range(size):
            z = numpyro.sample(f"z{t}", dist.Normal(z, 1.0))
            numpyro.sample(f"y{t}", dist.Normal(z, 0.5), obs=0.1 * t)

    return model
