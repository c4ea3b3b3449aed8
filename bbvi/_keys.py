"""Random keys: from what a user gives, and many numbered children at once."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._types import Key


def read_key(seed: Any, default: Key | None = None) -> Key:
    """A JAX key from an int or a key.

    Raises:
        TypeError: It is neither.
    """
    if seed is None and default is not None:
        return default
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        return _key_of(int(seed))
    if isinstance(seed, jax.Array):
        if jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key) and seed.shape == ():
            return seed
        if seed.dtype == np.uint32 and seed.shape == (2,):
            return jax.random.wrap_key_data(seed)
    raise TypeError(
        f"seed must be an int or one JAX key (jax.random.key(0)); found "
        f"{type(seed).__name__} {seed!r}"
    )


def _key_of(seed: int) -> Key:
    """``jax.random.key(seed)``, without compiling anything where that is known."""
    if jax.config.jax_default_prng_impl != "threefry2x32" or not 0 <= seed < 2**32:
        return jax.random.key(seed)
    return jax.random.wrap_key_data(np.array([0, seed], np.uint32))


def numbered(key: Key, first: Any, count: int) -> Key:
    """Children ``first``, ``first + 1``, ... of a key, all at once."""
    numbers = first + jnp.arange(count, dtype=jnp.uint32)
    return jax.vmap(partial(jax.random.fold_in, key))(numbers)
