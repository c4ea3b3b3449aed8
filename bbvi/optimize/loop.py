"""The optimiser's loop: a pure chunk of steps, and nothing else.

`make_chunk` builds one function that runs a fixed number of steps in a `lax.scan`
and returns running sums of what happened, so that memory does not grow with the number
of steps. Whoever drives it works on the host between chunks only.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._keys import numbered
from bbvi._types import Array, Data, Key, Loss, Params

if TYPE_CHECKING:
    import optax


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        params: Parameters, unconstrained, as one vector: see `ravel`.
        optimizer: The optimizer's own state.
        baselines: Running averages of costs, for score functions with one particle.
    """

    params: Array
    optimizer: Any
    baselines: dict[str, Array]


class Seen(NamedTuple):
    """What a chunk of steps saw; all but the first are vectors like the parameters.

    Attributes:
        elbos: Estimate of the bound at each step, `(num_steps,)`.
        mean: Mean of the iterates.
        variance: Variance of the iterates.
        gradient_sum: Sum of the gradients.
        gradient_square: Sum of their squares.
    """

    elbos: Array
    mean: Array
    variance: Array
    gradient_sum: Array
    gradient_square: Array


Chunk = Callable[[State, Key, Any, Any, Data], tuple[State, Seen]]


def make_chunk(
    loss: Loss,
    optimizer: "optax.GradientTransformation",
    retract: Callable[[Params, Params], Params],
    num_steps: int,
    decays: dict[str, float],
    like: Params,
) -> Chunk:
    """A function that runs ``num_steps`` steps.

    Args:
        loss: ``loss(params, key, data, baselines) -> (value, info)``.
        optimizer: Works on vectors (`optimizers.on_vectors`). It sees gradients in the
            coordinates of ``retract`` at zero, and its updates are multiplied by the
            chunk's ``rate``.
        retract: ``retract(params, step)``: the parameters after a step.
        num_steps: Steps in a chunk.
        decays: Of the running average of costs, by site; empty for none.
        like: Shapes of the parameters.

    Returns:
        ``chunk(state, key, first, rate, data) -> (state, seen)``, pure; ``first``
        is the number of its first step, and each number has noise of its own.
    """

    def moved_by(params: Array, step: Array) -> Array:
        return ravel(retract(unravel(params, like), unravel(step, like)))

    def chunk(
        state: State, key: Key, first: Any, rate: Any, data: Data
    ) -> tuple[State, Seen]:
        start = state.params

        def step(carry: Any, key: Key) -> tuple[Any, Array]:
            state, sums = carry

            def around(params: Array) -> tuple[Array, Any]:
                return loss(unravel(params, like), key, data, state.baselines)

            value = jax.value_and_grad(around, has_aux=True)
            (_, info), slope = value(state.params)
            # A step of zero stays where it is: only how it moves away is needed.
            _, pull = jax.vjp(partial(moved_by, state.params), jnp.zeros_like(start))
            (gradient,) = pull(slope)
            update, inner = optimizer.update(gradient, state.optimizer, state.params)
            params = moved_by(state.params, rate * update)
            baselines = {
                name: decays[name] * old + (1 - decays[name]) * info.costs[name]
                for name, old in state.baselines.items()
            }
            moved = params - start
            seen = jnp.stack([moved, moved**2, gradient, gradient**2])
            return (State(params, inner, baselines), sums + seen), info.elbo

        keys = numbered(key, first, num_steps)
        sums = jnp.zeros((4, *start.shape), start.dtype)
        (state, sums), elbos = jax.lax.scan(step, (state, sums), keys)
        shift, square = sums[:2] / num_steps
        seen = Seen(
            elbos=elbos,
            mean=start + shift,
            variance=jnp.maximum(square - shift**2, 0.0),
            gradient_sum=sums[2],
            gradient_square=sums[3],
        )
        return state, seen

    return chunk


def ravel(tree: Params) -> Array:
    """All leaves of a tree as one vector.

    The loop works on one vector, so that a model of many sites has no more arithmetic
    to compile for its optimizer than one of few.
    """
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def unravel(vector: Any, like: Params) -> Params:
    """The tree, of shapes and dtypes of ``like``; in NumPy if the vector is."""
    xp = np if isinstance(vector, np.ndarray) else jnp
    leaves, structure = jax.tree.flatten(like)
    ends = list(accumulate(prod(leaf.shape) for leaf in leaves))
    parts = xp.split(vector, ends[:-1]) if leaves else []
    shaped = [
        part.reshape(leaf.shape).astype(leaf.dtype)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shaped)
