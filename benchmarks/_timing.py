"""Interleaved timing, and the optimiser loop that both sides of a step share."""

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from benchmarks._report import Figure

Loss = Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value, or the exception it raised (its traceback is printed)."""
    try:
        return function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return error


def interleave(
    builders: Mapping[str, Callable[[], Callable[[], float]]], repeats: int
) -> dict[str, Figure | Exception]:
    """Medians of the sides' own measurements, taken in turn: A B A B ...

    Taking turns lets a drift of the machine (heat, neighbours) meet both sides alike.

    Args:
        builders: For each side, a function that does what is not to be measured
            (data, compilation, a first call) and returns the measurement.
        repeats: Measurements of each side.

    Returns:
        For each side its figure, or the exception that it raised first.
    """
    sides = {name: attempt(build) for name, build in builders.items()}
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            if isinstance(measure, Exception):
                continue
            seconds = attempt(measure)
            if isinstance(seconds, Exception):
                sides[name] = seconds
            else:
                samples[name].append(seconds)
    return {
        name: side if isinstance(side, Exception) else Figure.of_samples(samples[name])
        for name, side in sides.items()
    }


def build_steps(
    loss: Loss,
    params: Any,
    data: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> Callable[[], float]:
    """A measurement: microseconds an optimiser step takes, once compiled.

    The step (gradient, update, recorded loss) runs `num_steps` times in one
    `lax.scan`; the data are an argument of the program, not constants in it.
    """

    def scan(params: Any, state: Any, key: jax.Array, data: Any) -> Any:
        def step(carry: Any, key: jax.Array) -> Any:
            params, state = carry
            (value, _), grads = jax.value_and_grad(loss, has_aux=True)(
                params, key, data
            )
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, state), jax.random.split(key, num_steps))

    arguments = (params, optimizer.init(params), jax.random.key(0), data)
    compiled = jax.jit(scan).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))

    def measure() -> float:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        return (time.perf_counter() - start) / num_steps * 1e6

    return measure
