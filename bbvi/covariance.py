"""Covariances of a posterior: of draws, and by linear response of a mean-field fit."""

from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bbvi._types import Array, Data, Key, Params
from bbvi.drawing import log_joint, whole
from bbvi.estimators import Marginalized, Reparameterized
from bbvi.guides import MeanField
from bbvi.guides.base import continuous_of
from bbvi.guides.gaussian import flat_of
from bbvi.optimize.loop import ravel
from bbvi.optimize.newton import noise
from bbvi.planning import Plan

MAX_DIM = 2_000
"""Largest dimension of a linear response: its Hessian grows with the square."""
FEWEST_POINTS = 512
"""Points of noise behind a linear response; at least four times the dimension."""

Covariance = dict[str, dict[str, NDArray[np.floating]]]


def of_draws(draws: Mapping[str, NDArray[Any]]) -> Covariance:
    """Covariances of draws ``{site: (num_draws, *shape)}`` of float sites."""
    real = {n: x for n, x in draws.items() if np.issubdtype(x.dtype, np.floating)}
    flat = [x.reshape(len(x), -1).astype(np.float64) for x in real.values()]
    matrix = np.atleast_2d(np.cov(np.concatenate(flat, 1), rowvar=False))
    return _labelled(matrix, {name: x.shape[1:] for name, x in real.items()})


def linear_response(
    plan: Plan, params: Params, data: Data, key: Key, num_points: int | None = None
) -> Covariance:
    r"""Covariances of the posterior from how a mean-field fit answers a tilt.

    With $\eta$ the locations and log scales of q, $m(\eta) = E_q[z]$ and $H$ the
    Hessian of the negative ELBO at its optimum,

    $$\Sigma = \frac{dm}{d\eta}\, H^{-1}\, \frac{dm}{d\eta}^\top.$$

    This is the derivative of q's means when the log joint is tilted by $t^\top z$; for
    the exact posterior it would be its covariance, and for a Gaussian one it is.
    Expectations are means over points of noise with the first three moments and the
    covariance of a standard normal. Cost: ``num_points * d`` Hessian-vector products.

    Args:
        plan: Of a `MeanField` fit.
        params: Where it converged, unconstrained; the model's own are held.
        data: The model's arguments.
        key: Of the noise.
        num_points: Points of noise; default 512, or four times the dimension.

    Returns:
        ``{a: {b: (*a.shape, *b.shape)}}`` of the continuous latents, constrained.

    Raises:
        ValueError: Another family, sites of q that are not pathwise, masks, too many
            dimensions, or a Hessian that is not positive definite.

    References:
        Giordano, Broderick and Jordan (2018), Covariances, robustness, and variational
        Bayes, eq. 10; Giordano, Ingram and Broderick (2024), Black box variational
        inference with a deterministic objective, section 3.3.
    """
    full = whole(plan)
    sites = continuous_of(full.analysis, full.drawn)
    found = full.guide.gaussian(full.analysis, full.drawn, params)
    dim = len(flat_of(found.loc)) if found else 0
    _refuse(full, dim)
    number = max(num_points or 0, FEWEST_POINTS, 4 * dim)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    points = noise(generator, 1, number + number % 2, dim)[0]
    names = tuple(site.name for site in sites)
    loc, scale = flat_of(found.loc), flat_of(found.scale)

    @jax.jit
    def sums(loc: Array, scale: Array, points: Array, data: Data) -> Any:
        joint = log_joint(full, names, params, data)

        def energy(eps: Array) -> Array:
            return -joint(loc + scale * eps)[0]

        def value(eps: Array) -> Array:
            return ravel(list(joint(loc + scale * eps)[1].values()))

        def one(eps: Array) -> Any:
            second, move = jax.hessian(energy)(eps), jax.jacfwd(value)(eps)
            across = second * eps
            return (
                second,
                across,
                across * eps[:, None] + jnp.diag(eps * jax.grad(energy)(eps)),
                jnp.concatenate([move, move * eps], 1),
            )

        return jax.tree.map(lambda x: jnp.mean(x, 0), jax.lax.map(one, points))

    single = [np.asarray(x, np.float32) for x in (loc, scale, points)]
    made = jax.device_get(sums(*single, data))
    second, across, scales, move = (np.asarray(x, np.float64) for x in made)
    hessian = np.block([[second, across], [across.T, scales]])
    try:
        root = np.linalg.cholesky((hessian + hessian.T) / 2)
    except np.linalg.LinAlgError:
        raise ValueError(
            "the Hessian of the bound is not positive definite, so the fit is at no "
            "maximum that linear response could start from: use covariance('draws')"
        ) from None
    half = np.linalg.solve(root, move.T)
    shapes = {site.name: full.analysis.sites[site.name].shape for site in sites}
    return _labelled(half.T @ half, shapes)


def _refuse(plan: Plan, dim: int) -> None:
    """Raise unless linear response is right for a plan."""
    remedy = "use covariance('draws')"
    if not isinstance(plan.guide, MeanField):
        raise ValueError(
            f"linear response corrects guides.MeanField(); this fit has "
            f"{plan.guide!r}: {remedy}"
        )
    for name, choice in plan.choices.items():
        site = plan.analysis.sites[name]
        if not isinstance(choice.estimator, (Reparameterized, Marginalized)):
            raise ValueError(
                f"{site.describe} has {choice.estimator!r}, and linear response needs "
                f"a bound that is differentiated through its draws: {remedy}"
            )
        if site.is_masked:
            raise ValueError(
                f"{site.describe} is masked, so the bound is not that of a posterior: "
                f"{remedy}"
            )
    if not 0 < dim <= MAX_DIM:
        raise ValueError(
            f"linear response is for 1 to {MAX_DIM} continuous dimensions; found "
            f"{dim}: {remedy}"
        )


def _labelled(
    matrix: NDArray[np.floating], shapes: dict[str, tuple[int, ...]]
) -> Covariance:
    """Blocks of a covariance matrix by pairs of sites."""
    ends = np.cumsum([0, *map(prod, shapes.values())])
    spans = {n: slice(a, b) for n, a, b in zip(shapes, ends, ends[1:], strict=False)}
    return {
        a: {
            b: matrix[spans[a], spans[b]].reshape(shapes[a] + shapes[b]) for b in shapes
        }
        for a in shapes
    }
