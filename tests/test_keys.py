"""Keys: children differ from each other, from their parents, and from the user's."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bbvi._keys import Seed, beside, numbered, read_key


def words(keys):
    """Each key as one number."""
    data = np.asarray(jax.random.key_data(keys)).astype(np.uint64)
    return set((data[..., 0] * 2**32 + data[..., 1]).ravel().tolist())


def program():
    """Keys of two statements, with a third between them."""
    keys = [numpyro.prng_key()]
    numpyro.sample("a", dist.Normal(0.0, 1.0))
    return [*keys, numpyro.prng_key()]


def test_all_children_of_a_fit_and_of_the_users_keys_differ():
    seeds = [read_key(seed) for seed in (0, 1, 2)]
    given = [jax.random.key(i) for i in range(2_000)]
    found = [
        numbered(key, first, 1_000) for key in seeds for first in np.uint32([0, 2**31])
    ]
    asked = [key for child in found[0][:100] for key in Seed(program, child)()]
    several = [words(x) for x in (*found, *given, *seeds, *asked)]
    assert len(set().union(*several)) == sum(map(len, several))
    assert sum(map(len, several)) == 6_000 + 2_000 + 3 + 200


@pytest.mark.parametrize("count", [1, 8, 70_000])
def test_statements_of_all_particles_of_all_steps_differ(count):
    steps = numbered(read_key(0), 0, 3)
    particles = [beside(step, count) for step in steps]
    asked = [k for each in particles for p in each[:8] for k in Seed(program, p)()]
    several = [words(x) for x in (steps, *particles, *asked)]
    assert len(set().union(*several)) == sum(map(len, several))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_neighbours_are_not_correlated(impl):
    steps = numbered(jax.random.key(3, impl=impl), 0, 200)
    children = jax.vmap(lambda step: beside(step, 10))(steps).reshape(2_000)
    draws = np.array(
        jax.vmap(lambda key: [jax.random.normal(k, (16,)) for k in asked(key)])(
            children
        )
    )
    together = np.concatenate([draws[0], draws[1], np.roll(draws[0], 1, 0)], -1)
    correlations = np.corrcoef(together.T)[np.triu_indices(48, 1)] * 2_000**0.5
    assert np.abs(correlations).max() < 5  # of 1,128 standard normals
    assert 0.9 < correlations.std() < 1.1


def asked(key):
    """Keys of two statements of a program."""
    return Seed(program, key)()


def test_equal_keys_would_be_seen():
    key = read_key(3)
    same = [jax.random.normal(key, (2_000,)) for _ in range(2)]
    assert np.corrcoef(same)[0, 1] * 2_000**0.5 > 40


def test_a_seed_is_its_key():
    of_int, of_key = read_key(5), read_key(jax.random.key(5))
    raw = read_key(jax.random.PRNGKey(5))
    assert words(of_int) == words(of_key) == words(raw)
    assert words(of_int) != words(read_key(6))
    assert words(of_int) != words(jax.random.key(5))
