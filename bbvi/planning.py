"""`plan`: a guide and one sound estimator for every latent site, with reasons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bbvi._counts import read_count
from bbvi._types import Key, Params
from bbvi.analysis import Analysis, Parameter, analyze
from bbvi.analysis.reading import moving_constraints
from bbvi.analysis.structure import Jump, name_of, table
from bbvi.analysis.windows import Influences
from bbvi.choosing import Choice, choose, situation_of, sum_out
from bbvi.circular import compare_ends
from bbvi.estimators import (
    DoubleControl,
    Estimator,
    Marginalized,
    Reparameterized,
    ScoreFunction,
)
from bbvi.estimators.elimination import Group
from bbvi.families import default_guide
from bbvi.guides import Custom, Guide
from bbvi.joint import initial_params, joint_influence, relaxing_problem
from bbvi.nodes import Node, guide_problems, read_guide

GIVEN = "as given"
"""The reason for a family that was asked for, from which a fit does not move."""


class PlanError(ValueError):
    """No sound plan: names every site, why, and what to type instead."""


@dataclass(frozen=True, repr=False)
class Plan:
    """Analysis, guide and one estimator with a reason for every site; print it.

    Attributes:
        analysis: Of the model.
        guide: The family q.
        guide_reason: Why this family.
        choices: `Choice` of every latent site by name.
        program: The NumPyro guide.
        nodes: Its random statements by name.
        parameters: All ``numpyro.param`` of guide and model by name.
        influence: ``{cost: {node: influence}}`` of guide and model together.
        jumps: Sites along which a log density of model or guide jumps, and where.
        num_particles: Draws of q in one gradient estimate.
        identify: Finds `fingerprint`; once called it remembers.
        groups: How the sites that are summed out are summed.
        points: Latents that have one value given the others in q, a `Delta`.
    """

    analysis: Analysis
    guide: Guide
    guide_reason: str
    choices: dict[str, Choice]
    program: Callable[..., Any]
    nodes: dict[str, Node]
    parameters: dict[str, Parameter]
    influence: dict[str, Influences]
    jumps: dict[str, Jump]
    num_particles: int
    identify: Callable[[], str]
    groups: tuple[Group, ...] = ()
    points: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Text that is equal for two plans only if they compute the same."""
        return self.identify()

    def sites_of(self, kind: type[Estimator]) -> tuple[str, ...]:
        """Names of the sites whose estimator is of one kind, in the model's order."""
        return tuple(
            n for n, c in self.choices.items() if isinstance(c.estimator, kind)
        )

    @property
    def estimators(self) -> dict[str, Estimator]:
        """Estimators of the latents by name, as `plan` and `bbvi.fit` take them."""
        chosen = {name: choice.estimator for name, choice in self.choices.items()}
        return {name: e for name, e in chosen.items() if name in self.analysis.latents}

    @property
    def marginalized(self) -> tuple[str, ...]:
        """Sites that are summed out of the model."""
        return self.sites_of(Marginalized)

    @property
    def note(self) -> str:
        """Sentences on the sites along which the log density jumps, for the verdict."""
        return " ".join(
            f"Site {name!r} has {self.choices[name].estimator!r}, as {jump}."
            for name, jump in self.jumps.items()
            if name in self.choices
        )

    @property
    def drawn(self) -> tuple[str, ...]:
        """Latents that q holds, in the model's order."""
        return tuple(n for n in self.analysis.latents if n not in self.marginalized)

    @property
    def num_elements(self) -> int:
        """Numbers that one draw needs, roughly: of the sites, or to sum some out."""
        summing = sum(group.cells for group in self.groups)
        return max(self.analysis.num_elements, summing)

    @property
    def landed(self) -> "Plan | None":
        """The plan where late sites stick the landing; None if there are none."""
        late = Reparameterized(stick_the_landing="late")
        landing = Reparameterized(stick_the_landing=True)
        landed = {
            name: replace(choice, estimator=landing)
            for name, choice in self.choices.items()
            if choice.estimator == late
        }
        return replace(self, choices={**self.choices, **landed}) if landed else None

    def init(self, key: Key) -> Params:
        """Initial parameters, unconstrained: locations near 0, narrow scales.

        Args:
            key: A JAX key.

        Returns:
            Parameters of guide and model by name.
        """
        arguments = self.analysis.arguments
        kwargs = arguments.bind(arguments.arrays)
        return initial_params(
            self.analysis.model, self.program, self.parameters, kwargs, key
        )

    def __repr__(self) -> str:
        model = self.analysis.model
        module = getattr(model, "__module__", "__main__")
        inside = "" if module in (None, "__main__") else f"{module}."
        head = f"Plan for {inside}{name_of(model)}"
        particles = "particle" if self.num_particles == 1 else "particles"
        rows = [("site", "estimator", "because")]
        shared: dict[tuple[str, str], list[str]] = {}
        for name, choice in self.choices.items():
            why = (repr(choice.estimator), choice.reason)
            shared.setdefault(why, []).append(name)
        rows += [(", ".join(names), *why) for why, names in shared.items()]
        return "\n".join(
            [
                head,
                "=" * len(head),
                f"guide      {self.guide!r}: {self.guide_reason}",
                f"gradient   {self.num_particles} {particles} a step",
                "",
                table(rows),
                "",
                "not chosen",
                *self._not_chosen(),
            ]
        )

    def _not_chosen(self) -> list[str]:
        """Rejections in words, those that sites and estimators share on one line."""
        by_site: dict[tuple[str, str], list[str]] = {}
        for name, choice in self.choices.items():
            for estimator, why in choice.rejected.items():
                plain = type(estimator) is not type(choice.estimator)
                kind = type(estimator).__name__ if plain else repr(estimator)
                by_site.setdefault((kind, why), []).append(name)
        shared: dict[tuple[str, str], list[str]] = {}
        for (kind, why), names in by_site.items():
            shared.setdefault((", ".join(names), why), []).append(kind)
        return [
            f"  {names}: {', '.join(kinds)}: {why}"
            for (names, why), kinds in shared.items()
        ]


def plan(
    model: Callable[..., Any],
    data: Any = None,
    *,
    guide: Guide | Callable[..., Any] | None = None,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int | None = None,
) -> Plan:
    """Choose a sound gradient estimator for every latent site, with reasons.

    Args:
        model: Any NumPyro model, unmodified.
        data: Its arguments, see `bbvi.analyze`.
        guide: A family, a NumPyro guide function, or None for the default.
        estimators: Overrides by site; also readable from the model's
            ``infer={"bbvi": estimator}``.
        num_particles: Draws of q a step. Default: 8 in small models, 1 in large
            ones, at least 4 with score functions (each is the others' baseline).

    Returns:
        The plan; print it. Nothing has been compiled, but for a model whose log
        density may jump (`bbvi.analyze`).

    Raises:
        PlanError: An override is unsound or unknown, the guide misses a latent, or a
            site has no sound estimator; all such problems in one message.

    Example:
        >>> import bbvi, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     z = numpyro.sample("z", dist.Bernoulli(0.3))
        ...     numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)
        >>> bbvi.plan(model, {"y": 1.1}).choices["z"].estimator
        Marginalized()
    """
    return make_plan(analyze(model, data), guide, estimators, num_particles)


def make_plan(
    analysis: Analysis,
    guide: Guide | Callable[..., Any] | None,
    estimators: Mapping[str, Estimator] | None,
    num_particles: int | None,
) -> Plan:
    """`plan` from an analysis."""
    problems: list[str] = []
    family = _as_guide(guide, problems)
    overrides = _read_overrides(analysis, estimators, problems)
    problems += _count_problems(num_particles)
    _raise_if(analysis, problems)
    nodes: dict[str, Node] = {}
    parameters: dict[str, Parameter] = {}
    if isinstance(family, Custom):
        nodes, parameters = read_guide(analysis, family.program(analysis, ()))
    choices, not_summed, groups = sum_out(analysis, nodes, overrides, problems)
    _raise_if(analysis, problems)
    names = tuple(name for name in analysis.latents if name not in choices)
    family, why = (family, GIVEN) if family else default_guide(analysis, names)
    problems += family.refusals(analysis, names)
    _raise_if(analysis, problems)
    program = family.program(analysis, names)
    if not isinstance(family, Custom):
        nodes, parameters = read_guide(analysis, program)
    problems += moving_constraints(parameters)
    problems += guide_problems(analysis, name_of(program), nodes, names, not_summed)
    _raise_if(analysis, problems)
    parameters = {**parameters, **analysis.parameters}
    influence, feeds, jumps, identify = joint_influence(
        analysis,
        program,
        nodes,
        parameters,
        groups,
        trusted=not isinstance(family, Custom),
    )
    jumps = {**compare_ends(analysis, program, nodes, groups), **jumps}
    auxiliary = [name for name in nodes if name not in analysis.latents]
    order = [*analysis.latents, *(auxiliary if isinstance(family, Custom) else ())]
    particles = num_particles or 4
    unrelaxed = _unrelaxed(overrides, analysis, nodes, parameters, groups)
    for name in order:
        if name not in choices:
            node, why_not = nodes[name], not_summed.get(name, "not a site of the model")
            situation = situation_of(
                analysis, family, node, influence, feeds, jumps, particles, unrelaxed
            )
            choices[name] = choose(situation, overrides.get(name), why_not, problems)
    _raise_if(analysis, problems)
    made = Plan(
        analysis=analysis,
        guide=family,
        guide_reason=why,
        choices={name: choices[name] for name in order},
        program=program,
        nodes=nodes,
        parameters=parameters,
        influence=influence,
        jumps=jumps,
        num_particles=num_particles or 1,
        groups=groups,
        points=_points(analysis, nodes, feeds),
        identify=identify,
    )
    return made if num_particles else replace(made, num_particles=_particles(made))


def _points(
    analysis: Analysis, nodes: Mapping[str, Node], feeds: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Latents that the guide draws from a `Delta` which no auxiliary draw moves."""
    carriers: set[str] = set()
    points = []
    for name, node in nodes.items():
        is_delta = node.factor == "Delta"
        is_moved = any(name in feeds[other] for other in carriers)
        if is_moved if is_delta else node.is_auxiliary:
            carriers.add(name)
        elif is_delta and name in analysis.latents:
            points.append(name)
    return tuple(points)


def _unrelaxed(
    overrides: Mapping[str, Estimator], analysis: Analysis, nodes: Any, *rest: Any
) -> dict[str, str]:
    """Why the model takes no fractions, for sites whose control variate needs them."""
    controls = {n: getattr(overrides.get(n), "control_variate", None) for n in nodes}
    asked = [n for n, c in controls.items() if isinstance(c, DoubleControl)]
    return {name: relaxing_problem(analysis, nodes, *rest, name) for name in asked}


def _count_problems(num_particles: Any) -> list[str]:
    try:
        read_count("num_particles", 1 if num_particles is None else num_particles)
    except (TypeError, ValueError) as error:
        return [str(error)]
    return []


def _particles(made: Plan) -> int:
    """More particles where they are nearly free, and enough to be each other's."""
    size = made.num_elements
    particles = 8 if size <= 1_000 else 4 if size <= 10_000 else 1
    return max(particles, 4) if made.sites_of(ScoreFunction) else particles


def _as_guide(guide: Any, problems: list[str]) -> Guide | None:
    if guide is None or isinstance(guide, Guide):
        return guide
    if isinstance(guide, type) and issubclass(guide, Guide):
        problems.append(
            f"guide is the class {guide.__name__}: write {guide.__name__}()"
        )
        return None
    if callable(guide):
        return Custom(guide)
    problems.append(
        f"guide must be a family such as guides.MeanField(), a NumPyro guide function "
        f"or None; found {type(guide).__name__}"
    )
    return None


def _read_overrides(
    analysis: Analysis,
    estimators: Mapping[str, Estimator] | None,
    problems: list[str],
) -> dict[str, Estimator]:
    """Overrides from the model's ``infer`` and from the argument, which wins."""
    marked = {
        name: site.infer["bbvi"]
        for name, site in analysis.latents.items()
        if "bbvi" in site.infer
    }
    if estimators is not None and not isinstance(estimators, Mapping):
        problems.append(
            f"estimators must map sites to estimators, such as "
            f"{{{next(iter(analysis.latents))!r}: estimators.ScoreFunction()}}; found "
            f"{estimators!r}"
        )
        return marked
    overrides = {**marked, **(estimators or {})}
    for name, estimator in overrides.items():
        if not isinstance(estimator, Estimator):
            problems.append(
                f"the estimator of site {name!r} must be one of bbvi.estimators, such "
                f"as estimators.ScoreFunction(); found {estimator!r}"
            )
        if name not in analysis.latents:
            problems.append(
                f"estimators names {name!r}, which is no latent site; the latent "
                f"sites are {', '.join(analysis.latents)}"
            )
    return overrides


def _raise_if(analysis: Analysis, problems: list[str]) -> None:
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise PlanError(f"{name_of(analysis.model)} has no sound plan:\n{lines}")
