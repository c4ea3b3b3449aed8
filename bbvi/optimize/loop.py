"""The optimiser's loop: a pure chunk of steps, and nothing else.

`make_chunk` builds one function that runs a fixed number of steps in a `lax.scan`
and returns running sums of what happened, so that memory does not grow with the number
of steps. Whoever drives it works on the host between chunks only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bbvi._types import Array, Data, Key, Loss, Params


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        params: Parameters, unconstrained.
        optimizer: The optimizer's own state.
        baselines: Running averages of costs, for score functions with one particle.
    """

    params: Params
    optimizer: Any
    baselines: dict[str, Array]


class Seen(NamedTuple):
    """What a chunk of steps saw.

    Attributes:
        elbos: Estimate of the bound at each step, `(num_steps,)`.
        mean: Mean of the iterates.
        variance: Variance of the iterates.
        gradient_sum: Sum of the gradients.
        gradient_square: Sum of their squares.
    """

    elbos: Array
    mean: Params
    variance: Params
    gradient_sum: Params
    gradient_square: Params


Chunk = Callable[[State, Key, Any, Any, Data], tuple[State, Seen]]


def make_chunk(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    retract: Callable[[Params, Params], Params],
    num_steps: int,
    decays: dict[str, float],
) -> Chunk:
    """A function that runs ``num_steps`` steps.

    Args:
        loss: ``loss(params, key, data, baselines) -> (value, info)``.
        optimizer: Sees gradients in the coordinates of ``retract`` at zero; its
            updates are multiplied by the chunk's ``rate``.
        retract: ``retract(params, step)``: the parameters after a step.
        num_steps: Steps in a chunk.
        decays: Of the running average of costs, by site; empty for none.

    Returns:
        ``chunk(state, key, index, rate, data) -> (state, seen)``, pure; ``index``
        counts the chunks, so that each has noise of its own.
    """

    def chunk(
        state: State, key: Key, index: Any, rate: Any, data: Data
    ) -> tuple[State, Seen]:
        start = state.params
        zeros = jax.tree.map(jnp.zeros_like, start)

        def step(carry: Any, key: Key) -> tuple[Any, Array]:
            state, sums = carry

            def around(step: Params) -> tuple[Array, Any]:
                params = retract(state.params, step)
                return loss(params, key, data, state.baselines)

            (_, info), gradient = jax.value_and_grad(around, has_aux=True)(zeros)
            updates, inner = optimizer.update(gradient, state.optimizer, state.params)
            updates = jax.tree.map(lambda u: rate * u, updates)
            params = retract(state.params, updates)
            baselines = {
                name: decays[name] * old + (1 - decays[name]) * info.costs[name]
                for name, old in state.baselines.items()
            }
            moved = jax.tree.map(jnp.subtract, params, start)
            seen = (moved, _square(moved), gradient, _square(gradient))
            sums = jax.tree.map(jnp.add, sums, seen)
            return (State(params, inner, baselines), sums), info.elbo

        keys = jax.random.split(jax.random.fold_in(key, index), num_steps)
        (state, sums), elbos = jax.lax.scan(step, (state, (zeros,) * 4), keys)
        moved, squares, gradient_sum, gradient_square = sums
        shift = jax.tree.map(lambda total: total / num_steps, moved)
        seen = Seen(
            elbos=elbos,
            mean=jax.tree.map(jnp.add, start, shift),
            variance=jax.tree.map(
                lambda square, mean: jnp.maximum(square / num_steps - mean**2, 0.0),
                squares,
                shift,
            ),
            gradient_sum=gradient_sum,
            gradient_square=gradient_square,
        )
        return state, seen

    return chunk


def _square(tree: Any) -> Any:
    return jax.tree.map(jnp.square, tree)
