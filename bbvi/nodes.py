"""The statements of a guide, one record each, and what is wrong with them."""

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import (
    BernoulliLogits,
    BernoulliProbs,
    FoldedDistribution,
    ImproperUniform,
    TransformedDistribution,
    constraints,
)

from bbvi._types import Array
from bbvi.analysis import Analysis, Parameter, Site
from bbvi.analysis.checks import MISDERIVED, misderived
from bbvi.analysis.dependence import influences
from bbvi.analysis.reading import read_parameters, read_site, trace_abstractly
from bbvi.analysis.tracing import (
    Trace,
    has_atoms,
    refine,
    run,
    sample_sites,
    unfit,
    unmask,
    unwrap,
)
from bbvi.estimators.implicit import is_circular, is_implicit
from bbvi.estimators.samplers import is_differentiable
from bbvi.guides.handlers import Watch


@dataclass(frozen=True)
class Node:
    """One random statement of the guide.

    Attributes:
        name: Of the statement; a latent of the model, or auxiliary.
        factor: Class name of its distribution.
        is_differentiable: Whether its draws can be differentiated.
        is_implicit: Whether that takes the implicit derivative of `run_guide`.
        is_circular: Whether its draws move around a circle, across its ends.
        has_entropy: Whether its entropy is known in closed form.
        support_moves: Whether its support may depend on parameters.
        has_atoms: Whether single points of a continuous one have probability.
        unfit: Why no draw can come from its distribution, if so.
        shape: Of its value.
        dtype: Of its value.
        is_discrete: Whether it takes values in a countable set.
        is_auxiliary: Whether it is marked as a statement of the guide's own.
        is_bernoulli: Whether it is a Bernoulli.
        is_hidden: Whether its draw is out of reach, as inside NumPyro's scan.
        site: Its record.
    """

    name: str
    factor: str
    is_differentiable: bool
    is_implicit: bool
    is_circular: bool
    has_entropy: bool
    support_moves: bool
    has_atoms: bool
    unfit: str | None
    shape: tuple[int, ...]
    dtype: Any
    is_discrete: bool
    site: Site = field(repr=False)
    is_auxiliary: bool = False
    is_bernoulli: bool = False
    is_hidden: bool = False

    def as_site(self) -> Site:
        """An auxiliary statement in the place of a site of the model."""
        support = (
            constraints.nonnegative_integer if self.is_discrete else constraints.real
        )
        return Site(
            self.name, "auxiliary", self.factor, self.shape, 0, self.dtype, (), support
        )


def entropy(site: Mapping[str, Any]) -> Array | None:
    """Expected ``-log q`` of a statement given its parents, or None if not known.

    For a transformed distribution this is the entropy of the base plus the log
    Jacobian at the draw.
    """
    fn = refine(site["fn"])
    transformed = isinstance(fn, TransformedDistribution)
    if unmask(fn) is not fn or (transformed and not site["intermediates"]):
        return None
    if isinstance(fn, FoldedDistribution):  # two values of the base share a draw
        return None
    base = fn.base_dist if transformed else fn
    try:
        known = base.entropy()
    except NotImplementedError:
        return None
    if not transformed:
        return known
    flat = copy(fn)
    flat.base_dist = ImproperUniform(base.support, base.batch_shape, base.event_shape)
    return known - flat.log_prob(site["value"], site["intermediates"])


def read_guide(
    analysis: Analysis, program: Callable[..., Any]
) -> tuple[dict[str, Node], dict[str, Parameter]]:
    """Statements and parameters of a guide by name."""
    watch = Watch()

    def first(trace: Trace, _: Any) -> dict[str, Parameter]:
        return read_parameters(trace)

    def again(trace: Trace, _: Any) -> dict[str, Node]:
        sites = {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}
        return {
            n: replace(_read_node(n, site), is_hidden=n not in watch.drawn)
            for n, site in sites.items()
        }

    arguments = analysis.arguments
    with watch:
        parameters = trace_abstractly(program, arguments, first)
        # Given from outside, so that a support that moves with them is seen to move.
        values = {name: parameter.shape for name, parameter in parameters.items()}
        nodes = trace_abstractly(program, arguments, again, values)
    return _settle_supports(analysis, program, nodes, parameters), parameters


def _settle_supports(
    analysis: Analysis,
    program: Callable[..., Any],
    nodes: dict[str, Node],
    parameters: dict[str, Parameter],
) -> dict[str, Node]:
    """Nodes whose supports move only where parameters or continuous draws move them.

    Data do not move, and neither do discrete draws, in which nothing is
    differentiated: a count drawn before may bound the support of a later factor.
    """
    moving = [n for n, x in nodes.items() if x.support_moves and x.factor != "Delta"]
    if not moving:
        return nodes

    def supports(inputs: Any, params: Any, arrays: Any) -> list[Any]:
        kwargs = analysis.arguments.bind(arrays)
        trace = run(program, kwargs, jax.random.key(0), {**params, **inputs})
        return [jax.tree.leaves(trace[n]["fn"].support) for n in moving]

    inputs = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in nodes.items()}
    params = {n: p.shape for n, p in parameters.items()}
    closed, shape = jax.make_jaxpr(supports, return_shape=True)(
        inputs, params, analysis.arguments.shapes
    )
    discrete = {n for n, x in nodes.items() if x.is_discrete}
    names = jax.tree.flatten({n: n for n in inputs})[0]
    names += [f"param {i}" for i, _ in enumerate(jax.tree.leaves(params))]
    found = jax.tree.unflatten(jax.tree.structure(shape), influences(closed, names))
    moved = {
        n: set().union(*leaves) - discrete
        for n, leaves in zip(moving, found, strict=True)
    }
    settled = {n: replace(nodes[n], support_moves=bool(moved[n])) for n in moving}
    return {**nodes, **settled}


def guide_problems(
    analysis: Analysis,
    guide: str,
    nodes: Mapping[str, Node],
    needed: Collection[str],
    not_summed: Mapping[str, str],
) -> list[str]:
    """What is wrong with the statements of a guide, as sentences.

    Args:
        analysis: Of the model.
        guide: Its name.
        nodes: Its statements.
        needed: Latents that it must draw.
        not_summed: Why they are not summed out of the model.
    """
    problems = []
    for site in (analysis.sites[n] for n in needed if n not in nodes):
        why = f" ({not_summed[site.name]})" if site.is_discrete else ""
        problems.append(
            f"{site.describe} has no statement in {guide}{why}: add "
            f"numpyro.sample({site.name!r}, ...)"
        )
    known = ", ".join(analysis.latents)
    for name, node in nodes.items():
        site = analysis.latents.get(name)
        if site is None and not node.is_auxiliary:
            problems.append(
                f"{guide} draws {name!r}, which is no latent of the model ({known}): "
                f"rename it, or mark it infer={{'is_auxiliary': True}}"
            )
        elif site is not None and name not in needed:
            problems.append(
                f"{site.describe} is summed out, and {guide} draws it: leave it out"
            )
        elif site is not None and node.shape != site.shape:
            problems.append(
                f"{guide} draws {name!r} with shape {node.shape}, the model has "
                f"{site.shape}"
            )
        elif site is not None and node.is_discrete != site.is_discrete:
            problems.append(
                f"{guide} draws {name!r} from a {node.factor}, the model from a "
                f"{site.distribution}: one is discrete, the other is not"
            )
        elif site is not None and node.has_atoms != site.has_atoms:
            one, other = (site.distribution, node.factor)
            if node.has_atoms:
                one, other = other, one
            problems.append(
                f"{guide} draws {name!r} from a {node.factor}, the model from a "
                f"{site.distribution}: the {one} is 0 itself with positive "
                f"probability, the {other} never"
            )
        if node.support_moves and node.factor == MISDERIVED:
            problems.append(misderived(f"{guide}'s statement {name!r}"))
        if node.unfit:
            problems.append(f"{guide} draws {name!r}, and {node.unfit}")
    return problems


def _read_node(name: str, site: Mapping[str, Any]) -> Node:
    fn = site["fn"]
    factor = type(unwrap(fn)).__name__
    moving = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(fn.support))
    return Node(
        name=name,
        factor=factor,
        is_differentiable=is_differentiable(fn),
        is_implicit=is_implicit(fn),
        is_circular=is_circular(fn),
        has_entropy=entropy(site) is not None,
        support_moves=moving or factor == "Delta",
        has_atoms=has_atoms(fn),
        unfit=_unfit(fn),
        shape=tuple(jnp.shape(site["value"])),
        dtype=jnp.result_type(site["value"]),
        is_discrete=bool(fn.support.is_discrete),
        is_auxiliary=bool(site["infer"].get("is_auxiliary")),
        is_bernoulli=type(unwrap(fn)) in (BernoulliLogits, BernoulliProbs),
        site=read_site(name, site),
    )


def _unfit(fn: Any) -> str | None:
    inner = unwrap(fn)
    if isinstance(inner, ImproperUniform):
        return "an ImproperUniform cannot be drawn from: use a proper distribution"
    return unfit(fn)
