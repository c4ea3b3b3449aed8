"""Random keys: from what a user gives, numbered children, and keys for a program.

Children of a key are made by addition to its two words where the generator is
Threefry, whose streams are independent for any keys that differ; hashing each would
cost more to compile than all else that a small model does with random numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from bbvi._types import Array, Key

THREEFRY = "threefry2x32"
MOST = np.uint32(2**16)
"""Statements of a program, and particles, whose keys are found by addition."""


def read_key(seed: Any, default: Key | None = None) -> Key:
    """A key of a fit's own from an int or a JAX key.

    It is hashed, on the host, into a key of JAX's default generator, so that its
    neighbours in number belong to nobody else: a user's data may come from
    ``jax.random.key(5)``.

    Raises:
        TypeError: It is neither.
        ValueError: An int that is too large.
    """
    if seed is None and default is not None:
        return default
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        if jax.config.jax_default_prng_impl == THREEFRY and 0 <= seed < 2**32:
            return _hashed([0, seed])  # key(seed), without compiling it
        try:
            seed = jax.random.key(int(seed))
        except OverflowError:
            raise ValueError(f"seed must fit into 64 bits; found {seed}") from None
    if isinstance(seed, jax.Array):
        if jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key) and seed.shape == ():
            return _hashed(jax.random.key_data(seed))
        if seed.dtype == np.uint32 and seed.shape == (2,):
            return _hashed(seed)
    raise TypeError(
        f"seed must be an int or one JAX key (jax.random.key(0)); found "
        f"{type(seed).__name__} {seed!r}"
    )


def _hashed(words: Any) -> Key:
    hashed = np.random.SeedSequence(np.asarray(words).tolist())
    size = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).size
    return jax.random.wrap_key_data(hashed.generate_state(size))


def numbered(key: Key, first: Any, count: int) -> Key:
    """Children ``first``, ``first + 1``, ... of a hashed key, all at once."""
    numbers = first + jnp.arange(count, dtype=jnp.uint32)
    if jax.random.key_impl(key) != THREEFRY:
        return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    return _moved(key, (numbers + 1)[:, None] * np.array([0, 1], np.uint32))


def beside(key: Key, count: int) -> Key:
    """Children of a key for particles, each of which runs programs under `Seed`."""
    if jax.random.key_impl(key) != THREEFRY or count >= MOST:
        return jax.random.split(key, count)
    numbers = MOST * np.arange(1, count + 1, dtype=np.uint32)
    return _moved(key, np.stack([numbers, np.zeros_like(numbers)], -1))


def _moved(key: Key, by: Any) -> Key:
    words: Array = jax.random.key_data(key)
    return jax.random.wrap_key_data(words + by, impl=THREEFRY)


class Seed(handlers.seed):
    """NumPyro's handler for one run, whose keys are the neighbours of the given one."""

    stateful = True
    count = 0

    def process_message(self, msg: dict[str, Any]) -> None:
        """Give a statement that asks for a key the next one."""
        if jax.random.key_impl(self.rng_key) != THREEFRY:
            super().process_message(msg)
        elif (
            msg["type"] in ("sample", "prng_key", "plate", "control_flow")
            and msg["kwargs"]["rng_key"] is None
            and msg["value"] is None
        ):
            self.count += 1
            msg["kwargs"]["rng_key"] = _moved(
                self.rng_key, np.array([self.count, 0], np.uint32)
            )
