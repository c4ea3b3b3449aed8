"""What can be wrong with a traced model, as sentences that name site and plate."""

import warnings
from collections.abc import Callable, Container, Mapping
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.distribution import Independent, MaskedDistribution

from bbvi.analysis.arguments import Arguments
from bbvi.analysis.reading import draw_improper
from bbvi.analysis.structure import Plate, Site, name_of
from bbvi.analysis.tracing import run, unfit, unwrap

MISDERIVED = "DoublyTruncatedPowerLaw"
"""NumPyro 0.22 differentiates its log density wrongly in the bounds ``low``, ``high``.

The rule given for it is that of the density, not of its logarithm; draws and values
are right, and so is the derivative in ``alpha`` and in the value.
"""


def misderived(what: str) -> str:
    """The problem of a `MISDERIVED` distribution whose bounds are differentiated."""
    return (
        f"{what} is a {MISDERIVED} with bounds that are not fixed, and NumPyro's "
        f"derivative of its log_prob in them is wrong: fix the bounds, or write the "
        f"log density in numpyro.factor"
    )


def hidden_scale(site: Site, plates: Container[str]) -> list[str]:
    """Problem of a scaled site in a plate that ``scan`` hides, and so its size."""
    hidden = [plate for plate in site.plates if plate not in plates]
    if not hidden or site.scale == 1:
        return []
    return [
        f"{site.describe} is scaled in plate {hidden[0]!r}, which is made inside scan, "
        f"where it cannot be seen whether it is subsampled: make the plate before the "
        f"scan, plate = numpyro.plate(...), and enter it inside, with plate"
    ]


def problems_of(site: Site, message: dict[str, Any]) -> list[str]:
    """Problems of one site that its shapes and its distribution show."""
    fn, expected = message["fn"], tuple(message["fn"].shape())
    if site.kind == "latent":
        if site.distribution == "Delta":
            return [f"{site.describe} is a point mass: write numpyro.deterministic"]
        if why := unfit(fn):
            return [f"{site.describe}: {why}"]
        inner = fn.base_dist if isinstance(fn, MaskedDistribution) else fn
        while isinstance(inner, Independent):
            inner = inner.base_dist
            if isinstance(inner, MaskedDistribution):
                return [
                    f"{site.describe} has a mask below to_event: put the statement "
                    f"inside numpyro.handlers.mask instead"
                ]
        return []
    if site.kind == "factor":
        return []
    try:
        broadcast = jnp.broadcast_shapes(expected, site.shape)
    except ValueError:
        broadcast = None
    if broadcast != site.shape:
        frames = ", ".join(
            f"plate {f.name!r} of size {f.size}" for f in message["cond_indep_stack"]
        )
        return [
            f"observed site {site.name!r} has data of shape {site.shape}, but its "
            f"{site.distribution} distribution has shape {expected}"
            + (f" inside {frames}" if frames else "")
            + ": give data and plates the same size"
        ]
    return []


def unobservable(name: str, message: Mapping[str, Any]) -> str | None:
    """Why what is given as ``obs`` is no array of real numbers, or None."""
    value = message["value"]
    if not isinstance(value, jax.Array | np.ndarray | np.generic | Number):
        return (
            f"observed site {name!r} is given a {type(value).__name__} that is no "
            f"array: pass an array or a list of numbers"
        )
    if jnp.iscomplexobj(value):
        return (
            f"observed site {name!r} is given complex numbers: pass real and imaginary "
            f"parts to sites of their own"
        )
    return None


def outside_support(
    name: str, message: Mapping[str, Any], known: dict[int, np.ndarray]
) -> list[str] | None:
    """Problems of observed values outside their support; None if not settled here.

    Data reach a site as the very tracers of the arguments, so most checks are a look
    at the arrays themselves. A support that moves with the latents is left to the
    density.
    """
    support, value = message["fn"].support, message["value"]
    value = known.get(id(value), value)
    support = jax.tree.map(lambda x: known.get(id(x), x), support)
    if _is_traced(support):
        return []
    if _is_traced(value):
        return None
    value = np.asarray(value)
    inside = np.asarray(support(value))
    if isinstance(message["fn"], MaskedDistribution) or inside.all():
        return []
    where = tuple(int(i) for i in np.argwhere(~inside)[0])
    found = value[where] if inside.ndim else value
    return [
        f"observed site {name!r} has {int((~inside).sum())} values outside the "
        f"support of its {type(unwrap(message['fn'])).__name__} ({support}), the "
        f"first is {found} at index {where}"
    ]


def _is_traced(value: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value))


def check_derived(
    model: Callable[..., Any],
    arguments: Arguments,
    plates: Mapping[str, Plate],
    unsettled: list[str],
) -> None:
    """Check observations that the model computes from the data, minibatches whole.

    Raises:
        ValueError: Names the sites whose observations lie outside their support.
    """
    if not unsettled:
        return
    indices = {n: jnp.arange(p.size) for n, p in plates.items() if p.is_subsampled}

    def inside(arrays: Any, indices: Any) -> dict[str, Any]:
        program = draw_improper(model)
        trace = run(program, arguments.bind(arrays), jax.random.key(0), indices)
        return {
            name: jnp.all(trace[name]["fn"].support(trace[name]["value"]))
            for name in unsettled
            if not isinstance(trace[name]["fn"], MaskedDistribution)
        }

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            settled = jax.jit(inside)(arguments.arrays, indices)
    except (TypeError, ValueError):
        if not indices:
            raise
        # The data themselves are a minibatch: the plate cannot be run as a whole.
        settled = jax.jit(inside)(arguments.arrays, {})
    outside = [name for name, ok in settled.items() if not bool(ok)]
    if outside:
        raise ValueError(
            f"{name_of(model)} cannot be fitted:\n"
            + "\n".join(
                f"  - observed site {name!r} has values outside the support of its "
                f"distribution"
                for name in outside
            )
        )
