"""How a fit ended, and whether to trust it: `Status`, `Verdict`, and the rule."""

import enum
from dataclasses import dataclass, replace

import numpy as np

from bbvi.diagnostics import Estimate, Smoothed, khat_threshold, tail_length

TRUSTED_ESS = 0.9
"""Share of effective draws above which the draws need no weights."""
UNEVEN_ESS = 0.1
"""Share below which so few draws count that k-hat must be low for sure."""
EVEN_ESS = 0.99
"""Share above which the weights are so even that the tail of k-hat moves nothing."""


class Status(enum.Enum):
    """How an optimisation ended; each member prints as a sentence."""

    CONVERGED = "Converged: more steps, or smaller ones, gain nothing that matters."
    MAX_STEPS = (
        "Not converged: the largest number of steps was reached. Raise max_steps."
    )
    MAX_SECONDS = "Not converged: the time limit was reached. Raise max_seconds."
    NOT_FINITE = (
        "Not converged: the bound or its gradient stopped being finite; the last good "
        "state was kept."
    )
    INTERRUPTED = "Not converged: interrupted; this is the fit so far."

    def __str__(self) -> str:
        return self.value


class Level(enum.Enum):
    """What a verdict recommends."""

    TRUST = "Trust the draws"
    REWEIGHT = "Use the importance-weighted draws"
    DO_NOT_TRUST = "Do not trust the draws"


@dataclass(frozen=True)
class Verdict:
    """Whether to trust a fit; prints as a sentence.

    Attributes:
        level: The recommendation.
        reason: Why, as a clause with its figures.
        remedy: What to try next; empty if nothing is needed.
        note: What the plan had to do for the gradient to be right; empty if nothing.
    """

    level: Level
    reason: str
    remedy: str = ""
    note: str = ""

    def __str__(self) -> str:
        sentences = [f"{self.level.value}: {self.reason}.", self.remedy, self.note]
        return " ".join(sentence for sentence in sentences if sentence)


def judge(
    status: Status,
    bound: Estimate,
    weights: Smoothed,
    num_draws: int,
    richer: str = "",
    num_modes: int = 1,
    missing: float = 0.0,
    points: tuple[str, ...] = (),
    hole: tuple[str, str] = ("", ""),
    note: str = "",
) -> Verdict:
    """The verdict on a fit from its status and the importance ratios of its draws.

    Args:
        status: How the optimisation ended.
        bound: The ELBO.
        weights: Smoothed importance weights of the draws.
        num_draws: How many draws.
        richer: What to try if the family cannot carry the posterior, a sentence.
        num_modes: Different places where starts ended with about the same bound.
        missing: Nats of evidence that draws of a wider q find and q's own do not.
        points: Latents that have one value given the others in q.
        hole: Why the bound is not finite, a clause, and what to try; empty if it is.
        note: What the verdict says beside that, sentences.

    Returns:
        The verdict.
    """
    is_converged = status is Status.CONVERGED
    if is_converged and points:
        found = Verdict(
            Level.DO_NOT_TRUST,
            f"q draws {', '.join(map(repr, points))} from a Delta, which has no "
            f"spread, and the weights do not see that",
            "Take the value as an estimate, or draw the site from a density.",
        )
    elif is_converged and missing and num_modes == 1:
        found = Verdict(
            Level.DO_NOT_TRUST,
            f"wider draws see {missing:.1f} nats more evidence than its own, of which "
            f"it holds {np.exp(-missing):.0%}",
            "Another mode, or a tail: compare fits by seed, or start elsewhere.",
        )
    else:
        found = _judged(status, bound, weights, num_draws, richer, num_modes, hole)
    return replace(found, note=note)


def _judged(
    status: Status,
    bound: Estimate,
    weights: Smoothed,
    num_draws: int,
    richer: str,
    num_modes: int,
    hole: tuple[str, str],
) -> Verdict:
    threshold = khat_threshold(num_draws)
    share = weights.ess / num_draws
    figures = f"k-hat is {weights.khat:.2f}, effective draws {share:.0%}"
    if not np.isfinite(bound.value):
        reason, remedy = hole
        return Verdict(Level.DO_NOT_TRUST, reason or "the bound is not finite", remedy)
    if status is not Status.CONVERGED:
        reason = "the optimisation has not converged"
        return Verdict(Level.DO_NOT_TRUST, reason, "See fit.status.")
    if num_modes > 1:
        reason = f"starts ended in {num_modes} different places with similar bounds"
        remedy = (
            "The posterior has several modes, of which q holds one: order exchangeable "
            "parameters, or compare fits by seed."
        )
        return Verdict(Level.DO_NOT_TRUST, reason, remedy)
    is_even, highest, why = share >= EVEN_ESS, weights.khat, ""
    if share < UNEVEN_ESS:
        highest += (1 + weights.khat) / np.sqrt(tail_length(num_draws))
        why = f", by a standard error where so few draws count: {highest:.2f}"
    if not (highest < threshold or is_even):
        return Verdict(
            Level.DO_NOT_TRUST,
            f"{figures}; k-hat should be below {threshold:.2f}{why}",
            richer,
        )
    if share < TRUSTED_ESS:
        return Verdict(
            Level.REWEIGHT,
            figures,
            "Type fit.draws(reweighted=True).",
        )
    if not highest < threshold:
        figures += "; weights this even have no tail that counts"
    return Verdict(Level.TRUST, figures)
