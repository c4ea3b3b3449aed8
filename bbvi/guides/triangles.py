"""Lower triangular matrices with a positive diagonal, as unconstrained vectors.

The entries below the diagonal row by row, then the logarithms of the diagonal, which is
NumPyro's layout for ``constraints.lower_cholesky``. Here the places of the entries are
constants: what NumPyro computes to find them was half of a small model's compilation.
"""

from functools import cache
from math import isqrt
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import MultivariateNormal

from bbvi._types import Array


class TriangularNormal(MultivariateNormal):
    """A Gaussian whose triangle is a vector, which shows its determinant.

    Args:
        loc: Location, ``(dim,)``.
        vector: Of the triangle.
    """

    def __init__(self, loc: Array, vector: Array) -> None:
        self.log_diagonal = vector[..., -dim_of(vector) :]
        super().__init__(loc, scale_tril=triangle(vector), validate_args=False)

    def entropy(self) -> Array:
        each = 0.5 * (1 + np.log(2 * np.pi))
        return jnp.sum(self.log_diagonal + each.astype(self.log_diagonal.dtype), -1)


def triangle(vector: Array) -> Array:
    """Matrices ``(..., dim, dim)`` of vectors ``(..., dim (dim + 1) / 2)``."""
    vector, dim = jnp.asarray(vector), dim_of(vector)
    if dim == 1:
        return jnp.exp(vector)[..., None]
    places, below = _layout(dim)
    entries = vector.at[..., places].get(mode="promise_in_bounds")
    diagonal = jnp.exp(vector[..., -dim:])[..., None]
    return jnp.where(below, entries, diagonal * np.eye(dim, dtype=vector.dtype))


def product(left: Array, right: Array) -> Array:
    """The vector of the product of two triangles, from theirs."""
    dim = dim_of(left)
    diagonal = left[..., -dim:] + right[..., -dim:]
    if dim == 1:
        return diagonal
    whole = triangle(left) @ triangle(right)
    _, below = _layout(dim)
    flat = whole.reshape(*whole.shape[:-2], dim * dim)
    places = np.flatnonzero(below).astype(np.uint32)
    entries = flat.at[..., places].get(mode="promise_in_bounds")
    return jnp.concatenate([entries, diagonal], -1)


def dim_of(vector: Any) -> int:
    """Rows of the matrix of a vector."""
    return isqrt(2 * vector.shape[-1])


@cache
def _layout(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each entry stands in the vector, and which lie below the diagonal."""
    below = np.tri(dim, k=-1, dtype=bool)
    places = np.zeros((dim, dim), np.uint32)
    places[below] = np.arange(below.sum())
    return places, below


def tril_of(vector: Any, dim: int) -> np.ndarray:
    """The same matrices on the host, in double precision."""
    vector = np.asarray(vector, np.float64)
    places, below = _layout(dim)
    diagonal = np.exp(vector[..., -dim:])[..., None]
    return np.where(below, vector[..., places], diagonal * np.eye(dim))


def tril_vector(tril: np.ndarray) -> np.ndarray:
    """The inverse of `tril_of`."""
    diagonal = np.log(np.diagonal(tril, axis1=-2, axis2=-1))
    return np.concatenate([tril[..., _layout(tril.shape[-1])[1]], diagonal], -1)


def tril_units(sd: np.ndarray) -> np.ndarray:
    """Units of an unconstrained triangle whose rows have these lengths."""
    rows, _ = np.tril_indices(sd.shape[-1], -1)
    return np.concatenate([sd[..., rows], np.ones_like(sd)], -1)
