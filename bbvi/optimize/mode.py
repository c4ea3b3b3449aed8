"""The mode of a density and its curvature there, by a damped Newton method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbvi._types import Array

MAX_ITERATIONS = 100
"""Most evaluations of the Hessian."""
GAIN = 1e-3
"""Nats that a step must promise for the search to go on."""
FLOOR = 1e-4
"""Smallest eigenvalue of the scaled curvature: a direction that is flat or bends up."""


class Mode(NamedTuple):
    """Where a log density is largest.

    Attributes:
        point: The mode, `(dim,)`.
        precision: Negative Hessian there, up to the last step, which promised less
            than `GAIN`; made positive definite, `(dim, dim)`.
        value: Log density at the mode.
    """

    point: Array
    precision: Array
    value: Array


def find_mode(log_density: Callable[[Array], Array], start: Array) -> Mode:
    r"""Climb from a start to a mode; pure, to be jitted.

    With $g$ and $H$ gradient and Hessian, $D = |\mathrm{diag} H|$ and
    $D^{-1/2} (-H) D^{-1/2} = V \mathrm{diag}(w) V^\top$, a step is

    $$D^{-1/2} V \mathrm{diag}(|w| + \lambda)^{-1} V^\top D^{-1/2} g$$

    which is Newton's at $\lambda = 0$ where the density is log-concave, climbs where
    it is not, and does not change with the units of the coordinates. $\lambda$ falls
    after a step that gains and rises after one that does not, which is not taken.

    Args:
        log_density: Of a vector; need not be normalised.
        start: Where to begin, `(dim,)`.

    Returns:
        The mode, or how far the search came. Cost: a Hessian, that is dim gradients,
        and an eigenvalue decomposition an iteration.

    References:
        Nocedal and Wright (2006), Numerical Optimization, sections 3.4 and 10.3.
    """
    log_density = jax.jit(log_density)  # traced once for all derivatives

    def slope(point: Array) -> tuple[Array, tuple[Array, Array]]:
        value, gradient = jax.value_and_grad(log_density)(point)
        return gradient, (gradient, value)

    def iterate(carry: _Search) -> _Search:
        # In reverse mode, the only one that solvers of differential equations know.
        hessian, (gradient, value) = jax.jacrev(slope, has_aux=True)(carry.point)
        scale = jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(hessian)), 1e-20))
        scaled = -hessian / scale / scale[:, None]
        eigenvalues, vectors = jnp.linalg.eigh(0.5 * (scaled + scaled.T))
        along = vectors.T @ (gradient / scale)
        strength = jnp.maximum(jnp.abs(eigenvalues), FLOOR) + carry.damping
        moved = carry.point + (vectors @ (along / strength)) / scale
        reached = log_density(moved)
        gains = reached >= value
        curvature = (vectors * jnp.maximum(eigenvalues, FLOOR)) @ vectors.T
        return _Search(
            point=jnp.where(gains, moved, carry.point),
            value=jnp.where(gains, reached, value),
            precision=curvature * scale * scale[:, None],
            damping=jnp.where(gains, 0.2 * carry.damping, 5.0 * carry.damping + 1e-3),
            promised=0.5 * jnp.sum(along**2 / strength),
            count=carry.count + 1,
        )

    def goes_on(carry: _Search) -> Array:
        return (carry.promised > GAIN) & (carry.count < MAX_ITERATIONS)

    unknown = jnp.full((), jnp.inf, start.dtype)
    precision = jnp.zeros((*start.shape, *start.shape), start.dtype)
    begun = _Search(start, -unknown, precision, jnp.ones_like(unknown), unknown, 0)
    found = jax.lax.while_loop(goes_on, iterate, begun)
    return Mode(found.point, found.precision, found.value)


class _Search(NamedTuple):
    """Where a search is, and the curvature where its last step began."""

    point: Array
    value: Array
    precision: Array
    damping: Array
    promised: Array
    count: Any
