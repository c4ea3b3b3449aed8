"""`fit`: from a model and its data to a `Fit`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import NoneType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from numpy.typing import NDArray

from bbvi._collector import collector_paused
from bbvi._counts import read_count
from bbvi._keys import read_key
from bbvi.analysis import analyze
from bbvi.driving import Driver
from bbvi.estimators import Estimator
from bbvi.families import richer_guide
from bbvi.guides import Guide, NonCentered
from bbvi.guides.base import continuous_of, dimension
from bbvi.optimize.progress import Bar, Progress, Silent
from bbvi.optimize.stopping import Limits, Plateaus
from bbvi.planning import GIVEN, Plan, PlanError, make_plan
from bbvi.programs import Programs, programs_of
from bbvi.result import Fit
from bbvi.starting import member_at, origin_of, read_init
from bbvi.verdict import Level, Status
from bbvi.watching import flat

if TYPE_CHECKING:
    import optax

CHUNK = 100
"""Steps between two looks of the host."""
MAX_STEPS = 50_000
"""Default limit on steps."""
NUM_STARTS = 8
"""Default number of starts."""
AS_GOOD = 0.1
"""Nats by which the bounds of two families may differ where their optima do not."""
SHARED_DIM = 10
"""Dimensions beyond which one program serves a Gaussian and the funnel after it.

Compiling what only the funnel needs pays where it is likely to be needed: with one
scale for many elements.
"""


def fit(
    model: Callable[..., Any],
    data: Any = None,
    *,
    seed: Any = 0,
    guide: Guide | Callable[..., Any] | None = None,
    estimators: Mapping[str, Estimator] | None = None,
    init: Mapping[str, Any] | None = None,
    num_particles: int | None = None,
    num_starts: int | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    optimizer: "optax.GradientTransformation | None" = None,
    progress: bool | Progress = True,
) -> Fit:
    """Fit a NumPyro model by black-box variational inference.

    Maximises the ELBO over a variational family with a sound gradient estimator for
    every latent site, until it has converged, and says whether to trust the answer.
    Everything is compiled once; a second fit of the same model at the same shapes
    compiles nothing.

    Main arguments:

    Args:
        model: Any NumPyro model, unmodified.
        data: Its arguments: a mapping by name, a data frame, or a tuple. Arrays are
            arguments of the compiled program, other values are static.
        seed: An int or a JAX key; same seed, same machine, same fit.
        guide: A family such as ``guides.MeanField()``, a NumPyro guide function, or
            None for the default, from which the fit moves to richer families while
            its verdict asks for one and half of the limits is left.
        estimators: ``{site: estimator}``; default the plan's choice.
        init: ``{site: value}`` of continuous sites, constrained, broadcast to the
            site's shape: where every other start lies, the first exactly. The rest
            lie around the prior, so that another mode is seen.
        num_particles: Draws of q a step.
        num_starts: Starts of which the best is followed.
        max_steps: Limit; a fit that reaches it is not converged.
        max_seconds: Likewise, compiling included.
        optimizer: An optax optimizer with its own learning rate, which then is not
            lowered. Default Adam.
        progress: Whether to show a bar, or a `Progress` of one's own.

    Returns:
        The fit.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: What is wrong with model and data, or with ``init``, all in one
            message; no start with a finite bound.
        PlanError: No sound plan.

    Example:
        >>> import bbvi, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> fit = bbvi.fit(model, {"y": 1.0}, progress=False)
        >>> fit.status is bbvi.Status.CONVERGED
        True
    """
    begun = time.monotonic()
    key = read_key(seed)
    limits = _read_limits(num_starts, max_steps, max_seconds, optimizer, progress)
    with collector_paused():
        analysis = analyze(model, data)
        values = read_init(analysis, guide, init)
        made = make_plan(analysis, guide, estimators, num_particles)
        size = limits.max_steps // -(-limits.max_steps // CHUNK)
        ahead = _bending_ahead(made)
        programs = programs_of(made, optimizer, size, limits.num_starts, ahead)
    arrays = jax.device_put(made.analysis.arguments.arrays)
    origin = origin_of(made, programs, values, arrays)
    given = made, programs, arrays, key, limits, size, begun, Plateaus(size)
    driver = Driver(*given, origin)
    driver.poor = _poor(made, programs)
    found = driver.run()
    while driver.is_rough or _is_too_poor(driver, found):
        if not _is_too_poor(driver, found):
            driver, found = _settled(driver, found)
            continue
        richer = _richer_driver(driver, found, estimators, num_particles, optimizer)
        if richer is None:
            break
        after = richer.run()
        if not _is_better(after, found):
            _, found = _settled(driver, found)
            path = after.history.path
            return replace(found, history=replace(found.history, path=path))
        driver, found = richer, after
    return _settled(driver, found)[1]


def _settled(driver: Driver, found: Fit) -> tuple[Driver, Fit]:
    """The fit that was found, averaged if one search had been enough so far."""
    if not driver.is_rough:
        return driver, found
    start = flat(found.params)
    again = replace(driver, poor=frozenset(), is_rough=False, start=start)
    found = again.run()
    again.poor = driver.poor
    return again, found


def _is_better(after: Fit, before: Fit) -> bool:
    """Whether the bound is higher, or as good and k-hat lower."""
    gained = after.elbo.value - before.elbo.value
    return after.khat < before.khat if abs(gained) < AS_GOOD else gained > 0


def _is_too_poor(driver: Driver, found: Fit) -> bool:
    """Whether a richer family is asked for, and as much again may be spent."""
    return (
        found.status is Status.CONVERGED
        and found.verdict.level in driver.poor
        and np.isfinite(found.elbo.value)
        and driver.num_modes == 1
        and 2 * driver.steps <= driver.limits.max_steps
        and 2 * (time.monotonic() - driver.begun) <= driver.limits.max_seconds
    )


def _richer_driver(
    driver: Driver,
    found: Fit,
    estimators: Mapping[str, Estimator] | None,
    num_particles: int | None,
    optimizer: "optax.GradientTransformation | None",
) -> Driver | None:
    """A fit of a richer family that starts where another ended; None if none can.

    A family in other coordinates starts afresh.
    """
    old = driver.plan
    analysis, names = old.analysis, old.drawn
    guide = _richer_guide(old)
    at = old.guide.gaussian(analysis, names, found.params)
    if guide is None or at is None:
        return None
    afresh = isinstance(guide, NonCentered)
    reason = f"{old.guide!r} could not carry the posterior, k-hat {found.khat:.2f}"
    if found.verdict.level is Level.REWEIGHT:
        reason = f"draws of {old.guide!r} need weights, k-hat {found.khat:.2f}"
    with collector_paused():
        try:
            made = make_plan(analysis, guide, estimators, num_particles)
        except PlanError:  # an estimator was asked for that the family cannot have
            return None
        made = replace(made, guide_reason=reason)
        num_starts = driver.limits.num_starts if afresh else 1
        served = _bending_ahead(made), driver.programs.newton
        programs = programs_of(made, optimizer, driver.size, num_starts, *served)
    after = replace(
        driver,
        plan=made,
        poor=_poor(made, programs),
        programs=programs,
        plateaus=Plateaus(driver.size),
        start=None,
        is_rough=False,
        first=[],
        reached=[],
        best=None,
        num_followed=0,
        rows=list(driver.rows),
        snr=list(driver.snr),
        path=found.history.path,
    )
    if afresh:
        if driver.origin:
            values = driver.origin.values
            after.origin = origin_of(made, programs, values, driver.data)
        return after
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), programs.like)
    kept = {n: x for n, x in found.params.items() if n in zeros}
    return replace(after, start=flat(member_at(made, {**zeros, **kept}, at)))


def _richer_guide(made: Plan) -> Guide | None:
    return richer_guide(made.analysis, made.drawn, made.guide)


def _poor(made: Plan, programs: Programs) -> frozenset[Level]:
    """Verdicts with which a fit goes on to a richer family.

    Draws that need weights suffice where the next family's steps are compiled already.
    """
    if made.guide_reason == GIVEN or _richer_guide(made) is None:
        return frozenset()
    is_shared = programs.newton and programs.newton.shapes[0].bend.shape[1]
    weighted = {Level.REWEIGHT} if is_shared else set()
    return frozenset({Level.DO_NOT_TRUST} | weighted)


def _bending_ahead(made: Plan) -> NDArray[Any] | None:
    """Places that bend the richer family, if a fit is likely to go on to it."""
    richer, names = _richer_guide(made), made.drawn
    dim = dimension(made.analysis, continuous_of(made.analysis, names))
    if made.guide_reason == GIVEN or richer is None or dim <= SHARED_DIM:
        return None
    bending = richer.bending(made.analysis, names)
    return bending if bending.size else None


def default_programs(made: Plan) -> Programs:
    """Programs of a plan that is not fitted with options of its own."""
    return programs_of(made, None, CHUNK, NUM_STARTS, _bending_ahead(made))


def _read_limits(
    num_starts: Any, max_steps: Any, max_seconds: Any, optimizer: Any, progress: Any
) -> Limits:
    counts = {"num_starts": num_starts, "max_steps": max_steps}
    for name, count in counts.items():
        if count is not None:
            read_count(name, count)
    numbers = (int, float, np.number, NoneType)
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, numbers):
        raise TypeError(f"max_seconds must be a number; found {max_seconds!r}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive; found {max_seconds!r}")
    if optimizer is not None and not hasattr(optimizer, "update"):
        raise TypeError(
            f"optimizer must be an optax optimizer such as optax.adam(0.01); found "
            f"{type(optimizer).__name__}"
        )
    if isinstance(progress, Progress):
        shown = progress
    elif isinstance(progress, bool):
        shown = Bar() if progress else Silent()
    else:
        raise TypeError(f"progress must be a bool or a Progress; found {progress!r}")
    return Limits(
        num_starts=int(num_starts or NUM_STARTS),
        max_steps=int(max_steps or MAX_STEPS),
        max_seconds=float(max_seconds or np.inf),
        lowers=optimizer is None,
        progress=shown,
    )
