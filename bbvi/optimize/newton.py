r"""The deterministic phase: Gaussians fitted by Newton steps on common random numbers.

A search has points of noise of its own that stay the same from step to step, so that
its bound is a function that can be climbed and has an exact top. `make_newton` builds
the program of one; where searches begin, and what becomes of them, is the host's
business.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._types import Array, Data

MAX_ITERATIONS = 60
"""Most iterations in a call."""
FLOOR = 1e-4
"""Least strength of a curvature, next to that of q: a flat direction, or a bend up."""
WIDEST, NARROWEST = 3.0, 1e-3
"""Factors by which a standard deviation changes at most in a step."""
SHRINKS = 5
"""Iterations in which a q whose bound is not finite is made ten times narrower."""
HOPE = 100.0
"""Times what its next step promises that a search may still gain."""
CLOSE = 5.0
"""Nats below the best in which a search still matters."""
LONG = 5.0
"""Damping below which what a place promises tells whether a step led beyond the top."""
STUCK = 1e4
"""Damping, next to the largest curvature, at which a search is given up."""


class Best(NamedTuple):
    """The best search that has arrived before, with which others are compared.

    Attributes:
        loc: Mean of q, `(dim,)`.
        sd: Its standard deviations, `(dim,)`.
        elbo: Its bound; ``-inf`` where there is none yet.
    """

    loc: Array
    sd: Array
    elbo: Array


class Search(NamedTuple):
    """Where a search is.

    Attributes:
        loc: Mean of q, `(dim,)`.
        scale: A root of its covariance, `(dim, dim)`.
        bend: How log scales move with deviations, `(dim, k)`.
        volume: Log determinant of the root.
        elbo: The bound on the search's own noise; ``-inf`` before the first one.
        promised: Nats that a Newton step from here promises.
        count: Iterations made.
        elbos: The bound after each of them, `(MAX_ITERATIONS,)`, nan after the last.
        curvature: Mean negative Hessian in units of q, its eigenvalues, `(dim,)`.
        axes: Its eigenvectors, `(dim, dim)`.
        slope: Gradient of the bound in units of q, along these, `(dim,)`.
        width: Curvatures that widths follow: the same matrix's diagonal if q is
            factorised, its eigenvalues else, `(dim,)`.
        lean: Step of the bend without damping, `(dim, k)`.
        straightened: Nats that this promises.
        damping: Of the next step.
    """

    loc: Array
    scale: Array
    bend: Array
    volume: Array
    elbo: Array
    promised: Array
    count: Array
    elbos: Array
    curvature: Array
    axes: Array
    slope: Array
    width: Array
    lean: Array
    straightened: Array
    damping: Array


Newton = Callable[[Search, Array, Array, Best, Any, Any, Any, Any, Data], Search]


def make_newton(
    log_density: Callable[[Array, Data], Array],
    *,
    is_diagonal: bool,
    batch: int,
    bending: Sequence[int] = (),
) -> Newton:
    r"""A program that climbs the bound of a Gaussian on common random numbers.

    With $z_m = \mu + C \epsilon_m$, $g_m = \nabla \log p(z_m)$ and noise whose mean is
    0 and whose covariance is the identity, *exactly* (see `noise`), the bound is

    $$\hat L(\mu, C) = \frac1M \sum_m \log p(z_m) + \log |\det C| + \text{const}$$

    and the gradient and the mean negative Hessian in units of q are

    $$h = \frac1M \sum_m C^\top g_m, \qquad
      K = -\mathrm{sym} \frac1M \sum_m C^\top g_m \epsilon_m^\top .$$

    The latter is Stein's identity: no second derivative is taken. Both are exact where
    $\log p$ is quadratic, whatever the noise. With $K = V \mathrm{diag}(w) V^\top$ and
    damping $\lambda$ a step is

    $$\mu \leftarrow \mu + C V \mathrm{diag}(|w| + \lambda)^{-1} V^\top h, \qquad
      C \leftarrow C V \mathrm{diag}\Big(\frac{w + \lambda}{1 + \lambda}\Big)^{-1/2}
      V^\top ;$$

    a factorised q keeps $C$ diagonal, with $K_{ii}$ in the place of $w$. Nothing in it
    depends on the units of the coordinates. A step that lowers the bound is not taken
    and raises $\lambda$, as does one that gains less than a quarter of what it
    promised; one that gains at least half lowers it. Where rounding hides so small a
    gain, what a step without damping promises must shrink by as much.
    At the top $h = 0$ and $K = I$ (or $K_{ii} = 1$), the conditions of the best q for
    this noise; the nats that a step without damping promises,
    $\tfrac12 h^\top |K|^{-1} h + \tfrac14 \sum \log^2 w$, tell how far it is.

    With ``bending`` elements $g$ the log scales of all others are linear in them, as in
    `bbvi.guides.Funnel`: with $r_m = C \epsilon_m$, $t_m = B r_{m,g}$ and
    $z_m = \mu + r_m \odot e^{t_m}$, a Gaussian is fitted to the density of $r$, so
    $\nabla_r (\log p(z) + \sum_i t_i)$ is in the place of $g_m$. A shift of
    $\delta$ of its mean is undone by $\mu_i \leftarrow \mu_i + e^{s_i} \delta_i$ with
    $s = B \delta_g$, and rows $C_i \leftarrow e^{s_i} (C_i + \delta_i (B C_g)_i)$, to
    first order in $\delta_i$. The mean of $t$ is 0, so the gradient in B is

    $$G = \frac1M \sum_m (g_m \odot r_m \odot e^{t_m}) \, r_{m,g}^\top .$$

    Where $\log p$ is a Gaussian with q's own precision $P$ the Hessian in B is
    $-(I + P \odot \Sigma) \otimes \Sigma_{gg}$ with $\Sigma = C C^\top$, rows of $g$
    left out, from moments of products of normal variables; so its step is

    $$B \leftarrow B + \frac{1}{1 + \lambda} (I + P \odot \Sigma)^{-1} G
      \Sigma_{gg}^{-1} .$$

    Args:
        log_density: Of a vector, given data.
        is_diagonal: Whether q is factorised.
        batch: Points whose gradients are held at once.
        bending: Places of the elements with which the others' scales move.

    Returns:
        The program ``newton(search, noise, transposed, best, limit, tolerance, near,
        freedom, data)``, which returns a `Search`: from one that has `begun`, with
        noise `(M, dim)` and the same `(dim, M)`, until a step promises less than the
        tolerance, in nats, or for ``limit`` iterations, or until the search cannot
        reach the best before it, or has come to its place: within a standard deviation
        in every coordinate, and ``near`` nats. With a ``freedom`` of 0 in the place of
        1 B stays as it is. Pure, to be jitted. Cost: M gradients and an eigenvalue
        decomposition an iteration.

    References:
        Giordano, Ingram and Broderick (2024), Black box variational inference with a
        deterministic objective, JMLR 25(18) (common random numbers); Opper and
        Archambeau (2009), The variational Gaussian approximation revisited, Neural
        Computation 21, equations 4 and 5 (fixed point); Lin, Schmidt and Khan (2019),
        Stein's lemma for the reparameterization trick with exponential family
        mixtures, lemma 1.
    """
    bent = np.asarray(bending, int)

    def newton(
        search: Search,
        noise: Array,
        transposed: Array,
        best: Best,
        limit: Any,
        tolerance: Any,
        near: Any,
        freedom: Any,
        data: Data,
    ) -> Search:
        def slopes(points: Array) -> tuple[Array, Array]:
            def one(point: Array) -> tuple[Array, Array]:
                return jax.value_and_grad(log_density)(point, data)

            if len(points) <= batch:
                return jax.vmap(one)(points)
            return jax.lax.map(one, points, batch_size=batch)

        def goes_on(search: Search) -> Array:
            is_lost = ~jnp.isfinite(search.elbo) & (search.count >= SHRINKS)
            is_behind = search.elbo + HOPE * search.promised < best.elbo - CLOSE
            is_there = jnp.all(jnp.abs(search.loc - best.loc) < best.sd)
            comes_back = is_there & (jnp.abs(search.elbo - best.elbo) < near)
            is_done = comes_back | (search.promised <= tolerance)
            is_done |= is_lost | is_behind | is_stuck(search)
            return ~is_done & (search.count < limit)

        def step(search: Search) -> Search:
            moved = _moved(search, bent, is_diagonal=is_diagonal)
            seen = _seen(slopes, moved, noise, bent)
            known = moved, *seen, transposed, bent, freedom
            tried = _evaluated(*known, is_diagonal=is_diagonal)
            return _chosen(search, tried, hoped=moved.promised)

        return jax.lax.while_loop(goes_on, step, search)

    return newton


def is_stuck(search: Search) -> Array:
    """Whether even short steps do not raise the bound."""
    largest = jnp.max(jnp.abs(search.curvature), -1, initial=1.0)
    return search.damping > STUCK * largest


def begun(loc: np.ndarray, scale: np.ndarray, bend: np.ndarray) -> Search:
    """A search before its first evaluation, which its first step makes on the spot.

    Args:
        loc: Mean of q, `(dim,)`.
        scale: A triangular root of its covariance, `(dim, dim)`.
        bend: B, `(dim, k)`, whose rows of $g$ are 0.
    """
    none, one = np.zeros_like(loc), np.ones_like(loc)
    number = loc.dtype.type
    with np.errstate(divide="ignore"):  # of a root that rounding made singular
        volume = np.sum(np.log(np.diagonal(scale)))
    return Search(
        loc=loc,
        scale=scale,
        bend=bend,
        volume=volume,
        elbo=number(-np.inf),
        promised=number(np.inf),
        count=np.int32(0),
        elbos=np.full(MAX_ITERATIONS, np.nan, loc.dtype),
        curvature=one,
        axes=np.eye(len(loc), dtype=loc.dtype),
        slope=none,
        width=one,
        lean=np.zeros_like(bend),
        straightened=number(0),
        damping=number(1),
    )


def _moved(search: Search, bent: np.ndarray, *, is_diagonal: bool) -> Search:
    """The search after its next step, with what that, damped as it is, promises."""
    damping, turned = search.damping, search.scale @ search.axes
    strength = jnp.maximum(jnp.abs(search.curvature), FLOOR) + damping
    shift = search.slope / strength
    width = jnp.clip(search.width, WIDEST**-2, NARROWEST**-2)
    relative = (width + damping) / (1 + damping)
    logs, factor = jnp.log(relative), jax.lax.rsqrt(relative)
    root = search.scale if is_diagonal else turned
    root = root * factor if is_diagonal else (root * factor) @ search.axes.T
    promised = jnp.sum(search.slope * shift / 2 + logs**2 / 4)
    step, volume = jnp.sum(turned * shift, 1), search.volume - jnp.sum(logs) / 2
    bend = search.bend
    if bent.size:
        grown = bend @ step[bent]
        root += step[:, None] * (bend @ root[bent])
        root *= jnp.exp(grown)[:, None]
        step, volume = jnp.exp(grown) * step, volume + jnp.sum(grown)
        bend += search.lean / (1 + damping)
        promised += search.straightened / (1 + damping)
    return search._replace(
        loc=search.loc + step,
        scale=root,
        bend=bend,
        volume=volume,
        promised=promised,
    )


def _seen(
    slopes: Callable[[Array], tuple[Array, Array]],
    search: Search,
    noise: Array,
    bent: np.ndarray,
) -> tuple[Array, Array, Array]:
    """Log densities at the points of a search, and gradients in r and in B."""
    off = noise @ search.scale.T
    if not bent.size:
        return *slopes(search.loc + off), search.bend
    grown = jnp.exp(off[:, bent] @ search.bend.T)
    values, gradients = slopes(search.loc + off * grown)
    straight = gradients * grown
    of_logs = straight * off
    in_bend = (of_logs.T @ off[:, bent] / len(noise)).at[bent].set(0.0)
    straight = straight.at[:, bent].add((of_logs + 1) @ search.bend)
    return values, straight, in_bend


def _evaluated(
    search: Search,
    values: Array,
    gradients: Array,
    in_bend: Array,
    transposed: Array,
    bent: np.ndarray,
    freedom: Any,
    *,
    is_diagonal: bool,
) -> Search:
    """The search with what there is to know at its mean, root and bend."""
    # Where a first matrix is summed along its columns, XLA generates code as it runs.
    identity = np.eye(len(search.loc), dtype=bool)
    seen = jnp.concatenate([gradients, values[:, None]], 1)
    means, moments = jnp.mean(seen, 0), transposed @ seen / len(seen)
    product = moments[:, :-1] @ search.scale
    is_finite = jnp.isfinite(means[-1] + jnp.sum(product))
    negative = jnp.where(is_finite, -0.5 * (product + product.T), 0.0)
    axes, curvature = jax.lax.linalg.eigh(negative, symmetrize_input=False)
    slope = jnp.sum((search.scale @ axes) * means[:-1, None], 0)
    width = jnp.sum(jnp.where(identity, negative, 0.0), 0) if is_diagonal else curvature
    strength = jnp.maximum(jnp.abs(curvature), FLOOR)
    logs = jnp.log(jnp.maximum(width, FLOOR))
    promised = jnp.sum(slope**2 / strength / 2 + logs**2 / 4)
    entropy = search.volume + 0.5 * len(identity) * np.log(2 * np.pi * np.e)
    lean, straightened = search.lean, search.straightened
    if bent.size:
        in_bend = jnp.where(freedom > 0, in_bend, 0.0)
        lean = jnp.where(freedom > 0, _leaned(search.scale, in_bend, bent), 0.0)
        straightened = jnp.sum(in_bend * lean) / 2
    return search._replace(
        elbo=jnp.where(is_finite, means[-1] + entropy, -jnp.inf),
        promised=jnp.where(is_finite, promised + straightened, jnp.inf),
        curvature=curvature,
        axes=axes,
        slope=slope,
        width=width,
        lean=lean,
        straightened=straightened,
    )


def _leaned(scale: Array, in_bend: Array, bent: np.ndarray) -> Array:
    """The step of B, given the gradient in it."""
    identity = jnp.eye(len(scale), dtype=scale.dtype)
    upper = jnp.linalg.qr(scale.T, mode="r")
    inverse = jax.scipy.linalg.solve_triangular(upper, identity)
    covariance, precision = scale @ scale.T, inverse @ inverse.T
    moves = np.ones(len(scale), scale.dtype)
    moves[bent] = 0.0
    stiffness = identity + np.outer(moves, moves) * precision * covariance
    among = covariance[np.ix_(bent, bent)]
    return _solved(stiffness, _solved(among, in_bend.T).T)


def _solved(matrix: Array, right: Array) -> Array:
    """Solution of linear equations with a positive definite matrix."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)


def _chosen(search: Search, tried: Search, *, hoped: Array) -> Search:
    """The search after a step that was tried, taken or not."""
    is_lost = ~jnp.isfinite(search.elbo)
    rounding = 4 * jnp.finfo(tried.elbo.dtype).eps * jnp.abs(tried.elbo)
    gained = tried.elbo - search.elbo
    gains = jnp.isfinite(tried.elbo) & (gained >= -rounding)
    is_seen, is_long = hoped > rounding, search.damping < LONG
    gained = jnp.where(is_seen | ~is_long, gained, search.promised - tried.promised)
    misses = ~gains | ((gained < 0.25 * hoped) & (is_seen | is_long))
    factor, logs = jnp.where(is_lost, 0.1, 1.0), jnp.where(is_lost, np.log(0.1), 0.0)
    volume = search.volume + len(search.loc) * logs
    narrower = search._replace(scale=factor * search.scale, volume=volume)
    after = jax.lax.cond(gains, lambda: tried, lambda: narrower)
    kept = jnp.where(gained > 0.5 * hoped, 0.2, 1.0) * search.damping
    damping = jnp.where(misses, 5.0 * search.damping + 1e-2, kept)
    is_now = np.arange(MAX_ITERATIONS) == search.count
    return after._replace(
        damping=jnp.where(is_lost, search.damping, damping),
        count=search.count + 1,
        elbos=jnp.where(is_now, after.elbo, search.elbos),
    )


def noise(
    generator: np.random.Generator, count: int, num_points: int, dim: int
) -> np.ndarray:
    r"""Points of noise whose mean is 0 and whose covariance is the identity, exactly.

    Standard normal points and their mirror images, multiplied by the inverse root of
    their own covariance.

    Args:
        generator: Of the normal points.
        count: Sets.
        num_points: Points in each, even and at least ``2 * dim``.
        dim: Dimension.

    Returns:
        `(count, num_points, dim)`.
    """
    half = generator.standard_normal((count, num_points // 2, dim))
    covariance = np.swapaxes(half, 1, 2) @ half / half.shape[1]
    white = half @ np.swapaxes(np.linalg.inv(np.linalg.cholesky(covariance)), 1, 2)
    return np.concatenate([white, -white], 1)
