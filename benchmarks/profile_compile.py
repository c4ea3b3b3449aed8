"""Where does the time before the first step go? `python -m benchmarks.profile_compile`.

Prints, separately, the seconds that `jax.jit(value_and_grad(loss))` of `bbvi.loss`
takes to trace, to lower, to compile and to run once, after those of `bbvi.plan` and
`bbvi.loss` themselves; with the hand-written logistic loss for comparison.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _eight_schools, step_logistic
from benchmarks._timing import Loss, attempt

STAGES = ("plan", "trace", "lower", "compile", "run")


def main() -> int:
    """Prints one line a case; 1 if a case failed."""
    # The first array starts JAX's backend, which is no part of any case.
    jax.block_until_ready(jnp.zeros(1) + 1)
    cases: dict[str, Callable[[], tuple[Loss, Any, Any]]] = {
        "logistic, jax floor": floor_logistic,
        "logistic, bbvi": functools.partial(
            ours, step_logistic.model, step_logistic.simulated()
        ),
        "eight schools, bbvi": functools.partial(
            ours, _eight_schools.model, _eight_schools.data()
        ),
    }
    sys.stdout.write(" " * 22 + "".join(f"{s + ' s':>12}" for s in STAGES) + "\n")
    is_failed = False
    for name, build in cases.items():
        seconds = attempt(stages, build)
        is_failed |= isinstance(seconds, Exception)
        cells = (
            [f"{type(seconds).__name__:>12}"]
            if isinstance(seconds, Exception)
            else [f"{s:12.4f}" for s in seconds]
        )
        sys.stdout.write(f"{name:22}" + "".join(cells) + "\n")
    return int(is_failed)


def stages(build: Callable[[], tuple[Loss, Any, Any]]) -> list[float]:
    """Seconds of each of `STAGES`; `run` is the median of 101 calls."""
    clock = [time.perf_counter()]

    def lap(value: Any) -> Any:
        clock.append(time.perf_counter())
        return value

    loss, params, data = lap(build())
    arguments = (params, jax.random.key(0), data)
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    traced = lap(gradient.trace(*arguments))
    lowered = lap(traced.lower())
    compiled = lap(lowered.compile())
    runs = []
    for _ in range(101):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        runs.append(time.perf_counter() - start)
    laps = [after - before for before, after in zip(clock, clock[1:], strict=False)]
    return [*laps, sorted(runs)[50]]


def ours(model: Callable[..., None], data: dict[str, Any]) -> tuple[Loss, Any, Any]:
    """The loss of `bbvi` with a mean-field guide, its parameters and the data."""
    import bbvi

    plan = bbvi.plan(model, data, guide=bbvi.guides.MeanField(), num_particles=8)
    return bbvi.loss(plan), plan.init(jax.random.key(0)), data


def floor_logistic() -> tuple[Loss, Any, Any]:
    """The hand-written loss of `step_logistic`."""
    loss = step_logistic.floor_loss(step_logistic.sharp_log_lik)
    return loss, step_logistic.floor_params(), step_logistic.simulated()


if __name__ == "__main__":
    sys.exit(main())
