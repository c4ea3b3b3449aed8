"""Which estimator for which site: the rule, with reasons and refusals.

The order of `PREFERENCE` is the rule: the first estimator that does not refuse a site,
and whose cost is affordable, is chosen; every other one leaves its reason.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from bbvi.analysis import Analysis
from bbvi.analysis.colouring import colours, coupled_axes
from bbvi.analysis.structure import Jump
from bbvi.analysis.windows import Influences
from bbvi.estimators import (
    Antithetic,
    ControlVariate,
    DoubleControl,
    Estimator,
    LeaveOneOut,
    LocalExpectation,
    Marginalized,
    OptimalScale,
    Reparameterized,
    RunningAverage,
    ScoreFunction,
    Situation,
    SumAndSample,
)
from bbvi.estimators.elimination import Group, eliminate, sharing
from bbvi.estimators.ordering import Obstacle, listed
from bbvi.estimators.pathwise import LATE
from bbvi.guides import Guide
from bbvi.guides.base import full_shape
from bbvi.nodes import Node

PREFERENCE: tuple[Estimator, ...] = (
    Marginalized(),
    LocalExpectation(),
    Reparameterized(),
    ScoreFunction(),
)
"""Estimators in the order in which they are tried."""
CONTROLS: tuple[ControlVariate, ...] = (
    SumAndSample(),
    Antithetic(),
    LeaveOneOut(),
    RunningAverage(),
    OptimalScale(),
    DoubleControl(),
)
"""Control variates of a score function in the order in which they are tried."""
MAX_VALUES = 1_024
"""Most evaluations that a site may cost when its elements are summed together."""
MAX_CELLS = 2**24
"""Most numbers in a table that summing sites out may take."""
MAX_COUPLED = 16
"""Most evaluations that a site with coupled elements may cost."""


@dataclass(frozen=True)
class Choice:
    """The estimator of one site.

    Attributes:
        estimator: The one chosen.
        reason: Why.
        rejected: Why not, for every other estimator.
        ties: Score functions with the other control variates that are sound and
            affordable, which `bbvi.pilot` compares.
    """

    estimator: Estimator
    reason: str
    rejected: dict[Estimator, str]
    ties: tuple[Estimator, ...] = ()


def sum_out(
    analysis: Analysis,
    drawn: Collection[str],
    overrides: dict[str, Estimator],
    problems: list[str],
) -> tuple[dict[str, Choice], dict[str, str], tuple[Group, ...]]:
    """Which sites are summed out, and how.

    Args:
        analysis: Of the model.
        drawn: Sites that a written guide has statements for.
        overrides: Estimators that were asked for.
        problems: Gains a sentence for every override that is unsound.

    Returns:
        Their choices, why not for all other sites, and how they are summed.
    """
    estimator = Marginalized()
    asked = {n for n, e in overrides.items() if type(e) is Marginalized}
    situations = {}
    for name, site in analysis.latents.items():
        scales = {analysis.plate_scale(term) for term in analysis.children(name)}
        factor = "the guide's own" if name in drawn and name not in asked else ""
        bounded = tuple(n for n, on in analysis.bounds.items() if name in on)
        situations[name] = Situation(
            site, factor=factor, scales=tuple(scales), bounded=bounded
        )
    sound = {
        name
        for name, situation in situations.items()
        if estimator.refusal(situation) is None
        and (name in asked or name not in overrides)
    }
    groups, obstacles = _affordable(analysis, sound, asked)
    choices: dict[str, Choice] = {}
    refusals: dict[str, str] = {}
    of_site = {name: group for group in groups for name in group.sites}
    for name, situation in situations.items():
        situation = situation._replace(obstacle=obstacles.get(name, ""))
        if name in of_site:
            group = of_site[name]
            situation = situation._replace(
                route=group.reason, evaluations=group.evaluations
            )
            reason = estimator.reason(situation)
            reason = f"as asked; {reason}" if name in asked else reason
            in_q = situation._replace(factor="a table")
            rejected = {
                other: other.refusal(in_q) or why
                for other, why in _after(estimator).items()
            }
            choices[name] = Choice(estimator, reason, rejected)
            continue
        refusal = estimator.refusal(situation)
        refusals[name] = refusal or f"overridden by {overrides[name]!r}"
        if name in asked:
            problems.append(
                f"{situation.site.describe} cannot use Marginalized(): {refusal}. "
                f"Leave the override out, and the best sound estimator is chosen"
            )
    return choices, refusals, tuple(groups)


def _affordable(
    analysis: Analysis, names: Collection[str], asked: Collection[str]
) -> tuple[list[Group], dict[str, str]]:
    """Groups of sites to sum out within the limits; why not, for sites in none.

    Where sites cannot all be summed out together, they are taken one after the other,
    those that are asked for first, as long as those taken before stay affordable.
    """
    found: list[Group] = []
    obstacles: dict[str, str] = {}
    for sites in sharing(analysis, names):
        groups = _within_limits(analysis, sites, asked)
        if isinstance(groups, str) and len(sites) == 1:
            obstacles[sites[0]] = groups
        elif isinstance(groups, str):
            groups = ()
            kept: list[str] = []
            for name in sorted(sites, key=lambda name: name not in asked):
                more = _within_limits(analysis, [*kept, name], asked)
                if isinstance(more, str):
                    obstacles[name] = more
                else:
                    groups, kept = more, [*kept, name]
        if not isinstance(groups, str):
            found += groups
    return found, obstacles


def _within_limits(
    analysis: Analysis, names: Collection[str], asked: Collection[str]
) -> tuple[Group, ...] | str:
    """How the sites are summed out, or why they are not."""
    try:
        groups = eliminate(analysis, names)
    except Obstacle as obstacle:
        return str(obstacle)
    for group in groups:
        if asked >= set(group.sites):
            continue
        with_others = f" with {listed(group.sites)}" * (len(group.sites) > 1)
        if group.evaluations > MAX_VALUES:
            return (
                f"{group.evaluations:,} evaluations{with_others}, more than "
                f"{MAX_VALUES:,}"
            )
        if group.cells > MAX_CELLS:
            return (
                f"a table of {group.cells:,} numbers{with_others}, more than "
                f"{MAX_CELLS:,}"
            )
    return groups


def _after(chosen: Estimator) -> dict[Estimator, str]:
    """The estimators behind the chosen one in the order of preference."""
    kinds = [type(estimator) for estimator in PREFERENCE]
    rest = PREFERENCE[kinds.index(type(chosen)) + 1 :]
    return {e: f"{type(chosen).__name__} is preferred" for e in rest}


def _coupling(
    shape: tuple[int, ...], name: str, influence: Mapping[str, Influences]
) -> dict[str, int]:
    """How many elements of a site share cost terms, and in how many colours."""
    found = [f[name] for f in influence.values() if name in f]
    coupled = prod(shape[axis] for axis in coupled_axes(found, shape))
    return {"coupled": coupled, "colours": colours(found, shape).number}


def situation_of(
    analysis: Analysis,
    family: Guide,
    node: Node,
    influence: dict[str, Influences],
    feeds: dict[str, tuple[str, ...]],
    jumps: Mapping[str, Jump],
    num_particles: int = 4,
    unrelaxed: Mapping[str, str] = MappingProxyType({}),
) -> Situation:
    """What is known about the site of a node when its estimator is chosen."""
    site = analysis.latents.get(node.name) or node.as_site()
    joint = ""
    if family.draws_jointly and not site.is_discrete:
        above = [n for n in feeds if node.name in feeds[n] and n not in analysis.sites]
        joint = above[-1]
    # Inside scan later draws use the draw before its implicit derivative is attached.
    hidden = node.is_implicit and node.name in feeds[node.name]
    return Situation(
        site=site,
        factor="Normal" if joint else node.factor,
        is_differentiable=node.is_differentiable and not hidden,
        support_moves=node.support_moves and not joint,
        joint=joint,
        joint_size=_joint_size(analysis, feeds) if joint else 0,
        **_coupling(node.shape, node.name, influence),
        feeds=feeds[node.name],
        has_entropy=node.has_entropy or bool(joint),
        jump=str(jumps.get(node.name, "")),
        num_particles=num_particles,
        is_bernoulli=node.is_bernoulli,
        is_hidden=node.is_hidden,
        fed_by=tuple(n for n in feeds if node.name in feeds[n]),
        unrelaxed=unrelaxed.get(node.name, Situation.unrelaxed),
        drawn=node.site,
        rows=rows_of(analysis, node, influence),
        arguments={
            n: tuple(x.shape)
            for n, x in analysis.arguments.arrays.items()
            if hasattr(x, "shape")
        },
    )


def _joint_size(analysis: Analysis, drawn: Collection[str]) -> int:
    sites = [site for name, site in analysis.latents.items() if name in drawn]
    return sum(prod(site.shape) for site in sites if not site.is_discrete)


def rows_of(
    analysis: Analysis, node: Node, influence: Mapping[str, Influences]
) -> tuple[int, ...]:
    """See `Situation.rows`."""
    reached = (f[node.name] for f in influence.values() if node.name in f)
    coupled = coupled_axes(reached, node.shape)
    site = analysis.latents.get(node.name)
    whole = node.shape if site is None else full_shape(analysis, site)
    return tuple(n * (axis not in coupled) for axis, n in enumerate(whole))


def controlled(situation: Situation) -> tuple[ScoreFunction, ...]:
    """Score functions with each control variate that is sound and affordable.

    The first is the choice; there the default of the class is left unsaid.
    """
    limit = _limit(situation)
    sound = (c for c in CONTROLS if c.refusal(situation) is None)
    first, *others = (c for c in sound if c.cost(situation) <= limit)
    plain = ScoreFunction()
    is_plain = first == plain.control(situation.num_particles)
    named = tuple(ScoreFunction(control_variate=control) for control in others)
    return (plain if is_plain else ScoreFunction(control_variate=first), *named)


def _limit(situation: Situation) -> int:
    """Evaluations that a site may cost."""
    return MAX_VALUES if situation.coupled == 1 else MAX_COUPLED


def _ties(
    chosen: Estimator, scored: tuple[ScoreFunction, ...]
) -> tuple[Estimator, ...]:
    is_scored = isinstance(chosen, ScoreFunction)
    return tuple(other for other in scored if is_scored and other != chosen)


def choose(
    situation: Situation,
    override: Estimator | None,
    not_summed: str,
    problems: list[str],
) -> Choice | None:
    """The first sound and affordable estimator, or the override if it is sound."""
    rejected: dict[Estimator, str] = {PREFERENCE[0]: not_summed}
    sound: list[Estimator] = []
    for estimator in PREFERENCE[1:]:
        refusal = estimator.refusal(situation)
        if refusal is None:
            sound.append(estimator)
        else:
            rejected[estimator] = refusal
    names = " or ".join(f"estimators.{e!r}" for e in sound)
    where = situation.site.describe
    scored = controlled(situation) if ScoreFunction() in sound else ()
    if override is not None:
        if override == ScoreFunction() and scored:
            override = scored[0]
        refusal = override.refusal(situation)
        if not isinstance(override, tuple(map(type, PREFERENCE))):
            refusal = "bbvi.objective does not know how to form its gradient"
        if refusal is not None:
            if isinstance(override, ScoreFunction) and ScoreFunction() in sound:
                controls = [c for c in CONTROLS if c.refusal(situation) is None]
                names = " or ".join(f"estimators.{c!r}" for c in controls)
            remedy = f"Use {names}" if sound else "No estimator is sound here"
            problems.append(f"{where} cannot use {override!r}: {refusal}. {remedy}")
            return None
        for estimator in sound:
            rejected.setdefault(estimator, f"overridden by {override!r}")
        kept = {e: r for e, r in rejected.items() if type(e) is not type(override)}
        reason = f"as asked; {override.reason(situation)}"
        return Choice(override, reason, kept, _ties(override, scored))
    limit = _limit(situation)
    for estimator in sound:
        cost = estimator.cost(situation)
        if cost <= limit or estimator is sound[-1]:
            after = _after(estimator)
            if estimator == ScoreFunction():
                estimator = scored[0]
            if estimator == Reparameterized() and situation.joint_size > LATE:
                estimator = Reparameterized(stick_the_landing="late")
            reason = estimator.reason(situation)
            ties = _ties(estimator, scored)
            return Choice(estimator, reason, {**after, **rejected}, ties)
        rejected[estimator] = f"{cost} further evaluations, more than {limit}"
    reasons = "; ".join(f"{type(e).__name__}: {why}" for e, why in rejected.items())
    problems.append(
        f"{where} has no sound estimator ({reasons}). Write a guide whose factor for "
        f"it can be summed, differentiated or scored"
    )
    return None
