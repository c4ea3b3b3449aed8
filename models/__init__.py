"""The model zoo: one file a model, each with `model`, `data()` and `reference()`.

`model` is an unmodified NumPyro model, `data()` a mapping of its arguments, and
`reference()` the right answer: `mean` and `sd` of every continuous site on the
constrained scale, `probs` of every discrete site (its support is the last axis), for
most the `log_evidence`, and `origin`, which says how they were obtained. A model with
an amortised guide has `guide` too. The files do not import one another.

Example:
    >>> import models
    >>> zoo = models.load("coal_mining")
    >>> len(zoo.data()["year"])
    112
"""

from importlib import import_module
from types import ModuleType

NAMES = (
    "anaesthetists",
    "coal_mining",
    "digits_sbn",
    "eight_schools",
    "eight_schools_centered",
    "gauss_mix",
    "gauss_mix_marginalized",
    "hidden_markov",
    "nile",
    "old_faithful",
    "spike_slab",
    "wells",
    "zip_counts",
)


def load(name: str) -> ModuleType:
    """The module of one model of the zoo.

    Args:
        name: one of `NAMES`.

    Raises:
        ValueError: the zoo has no model of that name.
    """
    if name not in NAMES:
        raise ValueError(f"No model {name!r} in the zoo; it has {', '.join(NAMES)}.")
    return import_module(f"{__name__}.{name}")
