"""Adam, which a fit takes by default, and a user's optimizer made to work on vectors.

The only part that needs optax, imported once stochastic gradients are taken.
"""

from typing import Any

import optax

from bbvi._types import Array, Params
from bbvi.optimize.loop import ravel, unravel

EPS = 0.01
"""Of Adam: a gradient far below this many nats a unit moves nothing."""
ADAM = optax.chain(optax.scale_by_adam(eps=EPS), optax.scale(-1.0))
"""The default optimizer, whose rate is an argument of the chunk."""


def on_vectors(
    optimizer: optax.GradientTransformation, like: Params
) -> optax.GradientTransformation:
    """An optimizer of trees like ``like`` that takes and gives vectors."""

    def init(params: Array) -> Any:
        return optimizer.init(unravel(params, like))

    def update(gradient: Array, state: Any, params: Array) -> tuple[Array, Any]:
        trees = unravel(gradient, like), state, unravel(params, like)
        update, state = optimizer.update(*trees)
        return ravel(update), state

    return optax.GradientTransformation(init, update)
