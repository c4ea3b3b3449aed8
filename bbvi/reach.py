"""Does q reach the whole posterior? Draws of a wider q are asked for the evidence.

Weights of q's own draws look even wherever q fits one of several modes, as none of them
sees the others. Draws that are spread more widely do.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from bbvi._types import Params
from bbvi.drawing import Draw
from bbvi.planning import Plan

WIDER = (4.0, 16.0, 64.0)
"""Factors of the standard deviations of the wider q."""
FIRST = 3 * 2**30
"""Number of the first draw of a wider q."""
FEWEST = 10.0
"""Effective draws below which an estimate of the evidence says nothing."""
SURE = 4.0
"""Standard errors by which two estimates must differ."""
NOTICED = 0.2
"""Nats of missing evidence that matter."""
HOPELESS = 20.0
"""Nats short of q's own evidence at which an estimate ends the search."""

MOST, WIDEST, HITS = 1_000, 4.0, 0.1
"""Draws of a width at most; a mode this much wider than q must be hit by so many."""


def missing_evidence(
    plan: Plan,
    params: Params,
    made: Draw,
    draw: Callable[..., Draw],
) -> float:
    r"""Nats by which the evidence of wider draws exceeds that of q's own; 0 if unsure.

    With $q_c$ the same Gaussian with standard deviations $c$ times as large, both of

    $$\hat Z_c = \frac1N \sum_n \frac{p(y, z_n)}{q_c(z_n)}, \quad z_n \sim q_c,
      \qquad \hat Z = \hat Z_1$$

    are unbiased for the evidence, unless q misses a part of the posterior, which
    $\hat Z$ then leaves out. An estimate counts if at least `FEWEST` draws stand
    behind it, by their effective number $(\sum w)^2 / \sum w^2$: where the posterior
    has many dimensions no wider draw comes near it, and nothing is said. Once an
    estimate falls `HOPELESS` nats short, no wider one is made, nor where of $N$ draws
    in $d$ dimensions less than `HITS` would hit even a mode that is $r$ = `WIDEST`
    times as wide as q, $N (r / c)^d$.

    Args:
        plan: Of the fit.
        params: Of q.
        made: Its draws.
        draw: ``draw(params, first=number)``: draws at other parameters, numbered from
            there on.

    Returns:
        The difference; 0 for a guide that is no Gaussian.
        Cost: at most a batch of draws for each width.
    """
    guide, analysis, names = plan.guide, plan.analysis, plan.drawn
    at = guide.gaussian(analysis, names, params)
    if at is None:
        return 0.0
    own, own_error, _ = _evidence(made)
    most = 0.0
    dim = sum(np.size(loc) for loc in at.loc.values())
    for index, factor in enumerate(WIDER):
        if MOST * min(WIDEST / factor, 1.0) ** dim < HITS:
            break
        wider = at._replace(
            scale={n: factor * x for n, x in at.scale.items()},
            covariance=lambda factor=factor: factor**2 * at.covariance(),
        )
        moved: Any = guide.start_from(analysis, names, params, wider)
        moved = jax.tree.map(lambda x, y: np.asarray(x, y.dtype), moved, params)
        found, error, effective = _evidence(
            draw(moved, first=FIRST + index * len(made.log_p))
        )
        more = found - own
        if effective > FEWEST and more > max(
            NOTICED, SURE * np.hypot(error, own_error)
        ):
            most = max(most, float(more))
        if more < -HOPELESS:
            break
    return most


def _evidence(made: Draw) -> tuple[float, float, float]:
    """Log of the mean weight, its standard error, and the effective draws."""
    with np.errstate(invalid="ignore"):  # a draw that is impossible under both
        log_weights = np.asarray(made.log_p - made.log_q, np.float64)
    log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
    total = logsumexp(log_weights)
    if not np.isfinite(total):
        return -np.inf, np.inf, 0.0
    number = len(log_weights)
    with np.errstate(over="ignore"):  # the square of a density next to none
        effective = float(np.exp(2 * total - logsumexp(2 * log_weights)))
    error = np.sqrt(max(1 / effective - 1 / number, 0.0))
    return float(total - np.log(number)), float(error), effective
