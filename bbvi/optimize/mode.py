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
        precision: Negative Hessian there, made positive definite, `(dim, dim)`.
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
    gradient = jax.grad(log_density)
    hessian = jax.jacrev(gradient)  # solvers of ODEs know the reverse mode only

    def spectrum(point: Array) -> tuple[Array, Array, Array]:
        curvature = -hessian(point)
        scale = jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(curvature)), 1e-20))
        scaled = curvature / scale / scale[:, None]
        return scale, *jnp.linalg.eigh(0.5 * (scaled + scaled.T))

    def iterate(carry: Any) -> Any:
        point, value, damping, _, count = carry
        scale, eigenvalues, vectors = spectrum(point)
        along = vectors.T @ (gradient(point) / scale)
        strength = jnp.maximum(jnp.abs(eigenvalues), FLOOR) + damping
        step = (vectors @ (along / strength)) / scale
        promised = 0.5 * jnp.sum(along**2 / strength)
        moved = point + step
        reached = log_density(moved)
        gains = reached >= value
        point = jnp.where(gains, moved, point)
        value = jnp.where(gains, reached, value)
        damping = jnp.where(gains, 0.2 * damping, 5.0 * damping + 1e-3)
        return point, value, damping, promised, count + 1

    def goes_on(carry: Any) -> Array:
        *_, promised, count = carry
        return (promised > GAIN) & (count < MAX_ITERATIONS)

    first = (start, log_density(start), jnp.ones(()), jnp.full((), jnp.inf), 0)
    point, value, *_ = jax.lax.while_loop(goes_on, iterate, first)
    scale, eigenvalues, vectors = spectrum(point)
    kept = jnp.maximum(eigenvalues, FLOOR)
    precision = (vectors * kept) @ vectors.T * scale * scale[:, None]
    return Mode(point, precision, value)
