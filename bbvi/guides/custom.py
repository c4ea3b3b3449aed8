"""`Custom`: a user's own NumPyro guide."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpyro
from numpyro.infer.autoguide import AutoGuide

from bbvi.analysis import Analysis
from bbvi.analysis.structure import name_of
from bbvi.guides.base import Guide


@dataclass(frozen=True, repr=False)
class Custom(Guide):
    """A NumPyro guide function with ``numpyro.param`` and ``numpyro.sample``.

    It takes the model's arguments, may be amortised or autoregressive, and needs a
    statement for every latent of the model but the finite ones that it leaves to bbvi,
    which are summed out; sites of its own are marked
    ``infer={"is_auxiliary": True}``. Its plates and scales are its own: local sites
    of a subsampled plate stand inside the same plate, as in the model. NumPyro's
    AutoGuides are such functions.

    Args:
        function: The guide.

    Example:
        >>> import bbvi, numpyro, numpyro.distributions as dist
        >>> def guide(y=None):
        ...     numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.0), 1.0))
        >>> bbvi.guides.Custom(guide).function.__name__
        'guide'
    """

    function: Callable[..., Any]
    mirrors_model = False

    def __repr__(self) -> str:
        return f"Custom({name_of(self.function)})"

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        return []

    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        given, arguments = self.function, analysis.arguments
        if isinstance(given, AutoGuide) and given.prototype_trace is None:
            # Its first run keeps values, which inside a trace would be tracers.
            with numpyro.handlers.block(), numpyro.handlers.seed(rng_seed=0):
                given(**arguments.bind(arguments.arrays))
        return given
