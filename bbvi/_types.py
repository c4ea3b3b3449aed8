"""Type aliases that the whole package shares."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Array = jax.Array
Key = jax.Array
Params = dict[str, Any]
"""Variational and model parameters by name, unconstrained."""
Values = dict[str, Array]
"""One value of every site, by name."""
Data = Mapping[str, Any]
"""Arguments of the model, by name."""

# Children of a key for different uses. ``split(key, n)[i]`` is ``fold_in(key, i)``, so
# these numbers lie where no split reaches.
COUPLING_STREAM = 2**32 - 5
BATCH_STREAM, MODEL_STREAM, SCREEN_STREAM, CONDITIONAL_STREAM = range(2**32 - 4, 2**32)


class Loss(Protocol):
    """A pure function: the negative bound of one Monte-Carlo estimate and what it saw.

    Its gradient in ``params`` is an unbiased estimate of the gradient of the
    negative ELBO.
    """

    def __call__(self, params: Params, key: Key, data: Data) -> tuple[Array, Any]:
        """Return ``(value, info)``."""
        ...
