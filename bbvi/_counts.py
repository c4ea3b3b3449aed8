"""Numbers of draws, steps and starts, as a user gives them."""

from typing import Any

import numpy as np


def read_count(name: str, value: Any) -> int:
    """A count of at least 1.

    Args:
        name: Of the argument, for messages.
        value: What was given.

    Raises:
        TypeError: It is no integer.
        ValueError: It is less than 1.

    Example:
        >>> read_count("num_draws", 10.5)
        Traceback (most recent call last):
        ...
        TypeError: num_draws must be an int; found 10.5
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int; found {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; found {value}")
    return int(value)
