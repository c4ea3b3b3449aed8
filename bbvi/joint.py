"""Guide and model run together: the statements of a guide and what they influence.

`run_guide` draws from q inside a trace, `entropy` gives the part of the bound that a
statement of the guide contributes, and `joint_influence` walks guide and model as one
program, so that dependence through later draws of the guide is seen.
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import (
    ImproperUniform,
    TransformedDistribution,
    constraints,
)
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from bbvi._types import MODEL_STREAM, Array, Key, Params, Values
from bbvi.analysis import Analysis, Parameter, Site
from bbvi.analysis.analyzing import fingerprint
from bbvi.analysis.dependence import influences
from bbvi.analysis.reading import (
    read_parameters,
    read_site,
    trace_abstractly,
)
from bbvi.analysis.settling import Program, find_jumps
from bbvi.analysis.structure import Jump
from bbvi.analysis.tracing import (
    Trace,
    log_density,
    refine,
    run,
    sample_sites,
    unmask,
    unmasked_density,
    unwrap,
)
from bbvi.analysis.windows import Influences, covers, move
from bbvi.estimators.base import DIFFERENTIABLE_SAMPLERS
from bbvi.estimators.summation import model_terms

GUIDE_TERM = "q({})"
"""Name of the cost term that a statement of the guide contributes."""


@dataclass(frozen=True)
class Node:
    """One random statement of the guide.

    Attributes:
        name: Of the statement; a latent of the model, or auxiliary.
        factor: Class name of its distribution.
        is_differentiable: Whether its sampler can be differentiated.
        has_entropy: Whether its entropy is known in closed form.
        support_moves: Whether its support may depend on parameters.
        shape: Of its value.
        dtype: Of its value.
        is_discrete: Whether it takes values in a countable set.
        is_auxiliary: Whether it is marked as a statement of the guide's own.
        site: Its record.
    """

    name: str
    factor: str
    is_differentiable: bool
    has_entropy: bool
    support_moves: bool
    shape: tuple[int, ...]
    dtype: Any
    is_discrete: bool
    site: Site = field(repr=False)
    is_auxiliary: bool = False

    def as_site(self) -> Site:
        """An auxiliary statement in the place of a site of the model."""
        support = (
            constraints.nonnegative_integer if self.is_discrete else constraints.real
        )
        return Site(
            self.name, "auxiliary", self.factor, self.shape, 0, self.dtype, (), support
        )


class _Detach(Messenger):
    """Stop gradients at the named draws, so that their scores alone carry them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.names:
            msg["value"] = jax.lax.stop_gradient(msg["value"])
            msg["intermediates"] = []


class _Tap(Messenger):
    """Let every draw depend on an input of its own as well as on its parents."""

    def __init__(self, inputs: Values) -> None:
        super().__init__()
        self.inputs = inputs

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.inputs:
            draw = msg["value"]
            msg["value"] = self.inputs[msg["name"]] + (draw - draw)
            msg["intermediates"] = []


def run_guide(
    program: Callable[..., Any],
    kwargs: Mapping[str, Any],
    key: Key,
    values: Values,
    detached: tuple[str, ...] = (),
) -> Trace:
    """A draw of q: the guide's trace, with gradients stopped at ``detached`` draws."""
    with _Detach(detached):
        return run(program, kwargs, key, values)


def entropy(site: Mapping[str, Any]) -> Array | None:
    """Expected ``-log q`` of a statement given its parents, or None if not known.

    For a transformed distribution this is the entropy of the base plus the log
    Jacobian at the draw.
    """
    fn = refine(site["fn"])
    transformed = isinstance(fn, TransformedDistribution)
    if unmask(fn) is not fn or (transformed and not site["intermediates"]):
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

    def reading(trace: Trace, _: Any) -> Any:
        sites = {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}
        nodes = {n: _read_node(n, site) for n, site in sites.items()}
        return nodes, read_parameters(trace)

    static, shapes = analysis.arguments.static, analysis.arguments.shapes
    nodes, parameters = trace_abstractly(program, static, reading, shapes)
    if parameters:  # again, so that a support that moves with them is seen to move
        values = {name: parameter.shape for name, parameter in parameters.items()}
        nodes, _ = trace_abstractly(program, static, reading, shapes, values)
    return nodes, parameters


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
    return problems


def _read_node(name: str, site: dict[str, Any]) -> Node:
    fn = site["fn"]
    factor = type(unwrap(fn)).__name__
    moving = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(fn.support))
    return Node(
        name=name,
        factor=factor,
        is_differentiable=bool(fn.has_rsample) or factor in DIFFERENTIABLE_SAMPLERS,
        has_entropy=entropy(site) is not None,
        support_moves=moving or factor == "Delta",
        shape=tuple(jnp.shape(site["value"])),
        dtype=jnp.result_type(site["value"]),
        is_discrete=bool(fn.support.is_discrete),
        is_auxiliary=bool(site["infer"].get("is_auxiliary")),
        site=read_site(name, site),
    )


def joint_influence(
    analysis: Analysis,
    program: Callable[..., Any],
    nodes: dict[str, Node],
    parameters: dict[str, Parameter],
    marginalized: tuple[str, ...],
    *,
    trusted: bool,
) -> tuple[dict[str, Influences], dict[str, tuple[str, ...]], dict[str, Jump], str]:
    """Influence of every draw of the guide on every cost term of guide and model.

    Args:
        analysis: Of the model.
        program: The guide.
        nodes: Its statements.
        parameters: Of guide and model.
        marginalized: Sites that are summed out of the model.
        trusted: Whether the guide's own densities are known not to jump.

    Returns:
        ``{term: {node: influence}}``, for every node the later nodes whose draws it
        feeds (itself too, where that happens inside ``scan``), for nodes along which
        a log density of model or guide jumps where that is, and a fingerprint of guide
        and model together.
    """
    arguments = analysis.arguments

    def outputs(inputs: Any, params: Any, arrays: Any) -> dict[str, Any]:
        key, kwargs = jax.random.key(0), arguments.bind(arrays)
        with _Tap(inputs):
            guide = run(program, kwargs, key, params)
        draws = {n: guide[n]["value"] for n in nodes}
        indices = {n: s["value"] for n, s in guide.items() if s["type"] == "plate"}
        values = {**params, **indices, **draws}
        terms, _ = model_terms(analysis, marginalized, kwargs, key, values)
        for name in nodes:
            terms[GUIDE_TERM.format(name)] = log_density(guide[name])
        given = run(program, kwargs, key, {**params, **inputs})
        return {
            "direct": {n: unmasked_density(given[n]) for n in nodes},
            "tapped": {n: unmasked_density(guide[n]) for n in nodes},
            "terms": terms,
            "values": draws,
        }

    inputs = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in nodes.items()}
    params = {n: p.shape for n, p in parameters.items()}
    closed, shape = jax.make_jaxpr(outputs, return_shape=True)(
        inputs, params, arguments.shapes
    )
    found = influences(closed, jax.tree.flatten({n: n for n in inputs})[0])
    names = [jax.tree.flatten({n: n for n in shape[k]})[0] for k in sorted(shape)]
    found = iter(found)
    direct, tapped, influence, drawn = (
        {n: next(found) for n in group} for group in names
    )
    for name in nodes:
        site, term = analysis.sites.get(name), GUIDE_TERM.format(name)
        if site is not None and site.is_masked:
            ndim = len(site.shape) - site.event_dim
            influence[term] = _on_leading_axes(influence[term], ndim)
    feeds = {
        name: tuple(other for other in nodes if other != name and name in drawn[other])
        for name in nodes
    }
    for name, later in _hidden_feeds(direct, tapped, feeds).items():
        feeds[name] = (*(n for n in nodes if n in later and n != name), name)
        mixed = (None,) * len(nodes[name].shape)
        for term, reaching in influence.items():
            if reaching.keys() & feeds[name]:
                influence[term] = {**reaching, name: mixed}
    jumps = {n: jump for n, jump in analysis.jumps.items() if n in nodes}
    if not trusted:
        sites = {n: node.site for n, node in nodes.items()}
        guide = Program(
            program, arguments, sites, parameters, analysis.plates, unmasked_density
        )
        jumps = {**find_jumps(guide, closed, sorted(nodes), sorted(direct)), **jumps}
    digest = fingerprint(closed, nodes, parameters, marginalized)
    return influence, feeds, jumps, digest


def _on_leading_axes(influence: Influences, ndim: int) -> Influences:
    """Influence on an array once its axes from ``ndim`` on have been summed."""
    return move(influence, lambda a: a if a < ndim else None)


def _hidden_feeds(
    direct: dict[str, Influences],
    tapped: dict[str, Influences],
    feeds: dict[str, tuple[str, ...]],
) -> dict[str, set[str]]:
    """Draws whose use inside the guide the taps do not see, and what they feed.

    A tap takes hold after a statement; inside ``scan``, and of what it returns, later
    draws use the value before. ``direct`` is the influence of values that are given
    from outside, which reaches there too, so that what it has beyond the taps is
    such a use.
    """
    hidden: dict[str, set[str]] = {}
    for later, found in direct.items():
        for name, axes in found.items():
            known = tapped[later].get(name)
            if known is None or not covers(known, axes):
                hidden.setdefault(name, set()).add(later)
    for later in hidden.values():
        while True:
            more = {n for o in later for n in (*feeds[o], *hidden.get(o, ()))} - later
            if not more:
                break
            later |= more
    return hidden


def constrain(parameters: dict[str, Parameter], params: Params) -> Params:
    """Constrained values of unconstrained parameters."""
    return {
        name: jax.tree.map(biject_to(parameter.constraint), params[name])
        for name, parameter in parameters.items()
    }


def initial_params(
    model: Callable[..., Any],
    program: Callable[..., Any],
    parameters: dict[str, Parameter],
    kwargs: Mapping[str, Any],
    key: Key,
) -> Params:
    """Initial values that guide and model give their parameters, unconstrained."""
    guide = run(program, kwargs, key, {})
    draws = {
        n: s["value"] for n, s in guide.items() if s["type"] in ("sample", "plate")
    }
    found = guide
    if any(name not in guide for name in parameters):
        key = jax.random.fold_in(key, MODEL_STREAM)
        found = {**run(model, kwargs, key, draws), **guide}
    return {
        name: jax.tree.map(
            lambda x, c=parameter.constraint: biject_to(c).inv(jnp.asarray(x)),
            found[name]["value"],
        )
        for name, parameter in parameters.items()
    }


def with_full_plates(
    program: Callable[..., Any], analysis: Analysis
) -> Callable[..., Any]:
    """The program over all elements of its subsampled plates."""
    if not analysis.subsampled:
        return program
    indices = {n: jnp.arange(p.size) for n, p in analysis.subsampled.items()}

    def whole(**kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            with handlers.substitute(data=indices):
                return program(**kwargs)

    return whole
