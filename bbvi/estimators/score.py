"""`ScoreFunction`: the gradient of the log density of q, times the cost."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import lax

from bbvi._types import Array
from bbvi.analysis.windows import Aligned, Influence, laps
from bbvi.estimators.base import Estimator, Situation
from bbvi.estimators.controls import ControlVariate, LeaveOneOut, RunningAverage


@dataclass(frozen=True, repr=False)
class ScoreFunction(Estimator):
    r"""Score-function gradient, Rao-Blackwellised, with a baseline.

    $$\nabla_\lambda E_q[f] = E_q\Big[\sum_i \nabla_\lambda \log q(z_i)\,
      (f_i(z) - b_i)\Big]$$

    where $f_i$ holds the cost terms that element $i$ of the site influences, and no
    others but those of a block of coupled elements (Ranganath et al. 2014, section
    3.1; `in_blocks`), with plate scales once, and
    $\log q(z_i)$ neither scaled nor masked. What is taken off, $b_i$, is the control
    variate's; each of them leaves the gradient unbiased. It needs nothing of the model
    but values.

    Args:
        control_variate: Default: the first sound and affordable one in the order of
            `bbvi.plan`; at last `LeaveOneOut`, with one particle `RunningAverage`.

    Example:
        >>> from bbvi.estimators import Antithetic, ScoreFunction
        >>> ScoreFunction(control_variate=Antithetic())
        ScoreFunction(control_variate=Antithetic())

    References:
        Ranganath, Gerrish and Blei (2014), Black box variational inference, eq. 3 and
        section 3.1.
    """

    control_variate: ControlVariate | None = None

    def __post_init__(self) -> None:
        given = self.control_variate
        if given is not None and not isinstance(given, ControlVariate):
            raise TypeError(
                f"control_variate must be a control variate such as "
                f"estimators.LeaveOneOut(); found {given!r}"
            )

    def control(self, num_particles: int) -> ControlVariate:
        """The control variate, the default by the number of particles."""
        if self.control_variate is not None:
            return self.control_variate
        return LeaveOneOut() if num_particles > 1 else RunningAverage()

    def refusal(self, situation: Situation) -> str | None:
        if not situation.factor:
            return "q has no factor for it"
        if situation.joint:
            return (
                f"it is drawn together with other sites in {situation.joint!r}: use "
                f"guides.MeanField()"
            )
        if situation.site.name in situation.feeds and not situation.site.is_discrete:
            return (
                "later draws of the guide use its value inside scan, where its "
                "gradient cannot be stopped: write a Python loop"
            )
        if situation.support_moves:
            return (
                f"the support of its factor {situation.factor} may depend on "
                f"parameters, where the score is not the gradient"
            )
        return self.control(situation.num_particles).refusal(situation)

    def cost(self, situation: Situation) -> int:
        return self.control(situation.num_particles).cost(situation)

    def reason(self, situation: Situation) -> str:
        site = situation.site
        if situation.jump:
            why = situation.jump
        elif not site.is_discrete:
            why = "its sampler cannot be differentiated"
        elif site.values is None:
            why = "countable, without an end to sum to"
        elif situation.feeds:
            why = "discrete, and later draws of the guide depend on it"
        elif situation.coupled > 1:
            why = f"discrete, {situation.coupled} coupled elements"
        else:
            what = "elements that share no cost term" if site.shape else "one element"
            why = f"discrete, {what}"
        each = "element" if site.shape else "site"
        control = self.control(situation.num_particles).reason(situation)
        return f"{why}; costs that each {each} influences, {control}"


def reached_cost(term: Array, influence: Influence, shape: tuple[int, ...]) -> Array:
    r"""Sum of a cost term as each element of a latent reaches it.

    Along an axis that is aligned with a window element $i$ reaches the sum over all
    $j$ with $low \le stride\, j - step\, i \le high$ that the term has, round a ring
    up to multiples of its period.

    Args:
        term: A cost array.
        influence: Of the latent on it.
        shape: Of the leading axes of the latent on which its elements are laid out.

    Returns:
        Array with as many axes as ``shape``: aligned ones have the latent's size; on
        mixed ones all elements reach the sum, which has size 1 there.
    """
    kept = [(n, e) for n, e in zip(shape, influence, strict=False) if e is not None]
    axes = [entry.axis for _, entry in kept]
    total = jnp.sum(term, tuple(a for a in range(jnp.ndim(term)) if a not in axes))
    order = sorted(axes)
    total = jnp.transpose(total, [order.index(axis) for axis in axes])
    for axis, (size, entry) in enumerate(kept):
        span = (0, total.shape[axis] - 1)
        total = reduce(
            jnp.add,
            [
                _in_windows(total, axis, size, entry, lap * entry.period)
                for lap in laps(entry, size, span) or range(1)
            ],
        )
    places = tuple(i for i in range(len(shape)) if influence[i] is None)
    return lax.expand_dims(total, places)


def _in_windows(
    term: Array, axis: int, size: int, window: Aligned, shift: int
) -> Array:
    """Sums over the shifted window of each of ``size`` elements along an axis.

    Between the term's elements stand as many zeros as make its stride 1. Where the axis
    runs backwards, so do the windows.
    """
    step = abs(window.step)
    shift += min(window.step, 0) * (size - 1)
    low, high = window.low + shift, window.high + shift
    length = max((term.shape[axis] - 1) * window.stride + 1, 0)
    config = [(0, 0, 0)] * term.ndim
    config[axis] = (-low, step * (size - 1) + high + 1 - length, window.stride - 1)
    zero = np.zeros((), term.dtype)
    found = lax.pad(term, zero, config) if any(config[axis]) else term
    if high > low or step > 1:
        widths, steps = [1] * term.ndim, [1] * term.ndim
        widths[axis], steps[axis] = high - low + 1, step
        found = lax.reduce_window(found, zero, lax.add, widths, steps, "VALID")
    return lax.rev(found, (axis,)) if window.step < 0 else found


def in_blocks(
    reached: Mapping[str, Influence], own: Collection[str], shape: tuple[int, ...]
) -> dict[str, Influence]:
    r"""Influences with which coupled elements share their own terms as one block.

    Elements that are all coupled in some term, such as the units of one image, keep
    each other's $\log p(z_j) - \log q(z_j)$ in their costs. Those terms have mean zero
    under the score, and they cancel the noise of the term that couples: at
    $q(z) = p(z \mid x)$ the cost of a block is constant, its parts are not. Neighbours
    in a window, as in a chain, form no block: their terms stay out.

    Args:
        reached: Influence of the site on each term.
        own: Names of the terms that hold the site's own densities.
        shape: Of the site's value.

    Returns:
        The influences; those on the site's own terms are mixed along the axes that
        some term mixes. A larger influence leaves a score unbiased.
    """
    coupled = {a for f in reached.values() for a in range(len(shape)) if f[a] is None}
    return {
        term: tuple(None if a in coupled else axis for a, axis in enumerate(found))
        if term in own
        else found
        for term, found in reached.items()
    }
