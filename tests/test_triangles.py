"""Triangles as vectors: NumPyro's layout, products, and the same on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from bbvi.guides import triangles

TRIL = dist.biject_to(dist.constraints.lower_cholesky)
SLOW = [pytest.param(s, marks=pytest.mark.slow) for s in ((2, 6), (55,))]
SHAPES = [(1,), (3,), (4, 3, 1), *SLOW]


def vectors(shape, number=2):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(number)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_layout_is_that_of_numpyro(shape):
    (vector,) = vectors(shape, 1)
    wanted = TRIL(vector)
    np.testing.assert_allclose(triangles.triangle(vector), wanted, rtol=1e-6)
    dim = triangles.dim_of(vector)
    host = triangles.tril_of(vector, dim)
    np.testing.assert_allclose(host, wanted, rtol=1e-6)
    np.testing.assert_allclose(triangles.tril_vector(host), vector, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_and_their_derivatives_are_those_of_matrices(shape):
    left, right = vectors(shape)

    def by_hand(left, right):
        return TRIL.inv(TRIL(left) @ TRIL(right))

    found, wanted = triangles.product(left, right), by_hand(left, right)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    weights = jnp.arange(1.0, 1 + wanted.size).reshape(wanted.shape) / wanted.size
    slopes = [
        jax.grad(lambda *x, f=f: jnp.sum(weights * f(*x)), argnums=(0, 1))(left, right)
        for f in (triangles.product, by_hand)
    ]
    for ours, theirs in zip(*slopes, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
