"""Whether what depends on a draw on the circle agrees where the circle closes.

Draws of a von Mises factor move around the circle with its location, from pi to -pi.
Their derivative is that of the expectation only if nothing jumps there: a model that
takes cosines or von Mises densities of the angle qualifies, one that uses the angle as
a number does not. Two values decide it, so both are evaluated.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._types import Array, Key
from bbvi.analysis import Analysis
from bbvi.analysis.structure import Jump
from bbvi.analysis.tracing import log_density, run
from bbvi.estimators.elimination import Group
from bbvi.estimators.summation import model_terms
from bbvi.joint import GUIDE_TERM
from bbvi.nodes import Node

NUM_TRIALS = 8
"""Draws of everything else, each with its own half of the elements at the ends."""
TOLERANCE = 1e-5
"""Difference between the ends of a cost that counts as rounding, relative to 1 + it."""


def compare_ends(
    analysis: Analysis,
    program: Callable[..., Any],
    nodes: dict[str, Node],
    groups: tuple[Group, ...],
) -> dict[str, Jump]:
    """Nodes on a circle along which a cost jumps where it closes.

    Guide and model are evaluated at a few draws of the initial q, with some elements
    of the node at -pi and then at pi; costs that are not finite count as different.
    Nothing runs if no node is on a circle.
    """
    found = {}
    for name in (n for n, node in nodes.items() if node.is_circular):
        terms = ["data not known"]
        if analysis.arguments.has_values:
            terms = _differing(analysis, program, nodes, groups, name)
        if terms:
            found[name] = Jump("ends", "-pi and pi", "", terms[0])
    return found


def _differing(
    analysis: Analysis,
    program: Callable[..., Any],
    nodes: dict[str, Node],
    groups: tuple[Group, ...],
    name: str,
) -> list[str]:
    """Cost terms that are not the same at both ends."""

    def costs(kwargs: Any, key: Key, end: float, moved: Array) -> dict[str, Array]:
        drawn = run(program, kwargs, key, {})[name]["value"]
        value = {name: jnp.where(moved, end, drawn).astype(nodes[name].dtype)}
        guide = run(program, kwargs, key, value)
        values = {
            n: site["value"]
            for n, site in guide.items()
            if n in nodes or site["type"] in ("plate", "param")
        }
        terms, _ = model_terms(analysis, groups, kwargs, key, values)
        return {**terms, **{GUIDE_TERM.format(n): log_density(guide[n]) for n in nodes}}

    @jax.jit
    def differ(arrays: Any) -> dict[str, Array]:
        kwargs = analysis.arguments.bind(arrays)

        def trial(key: Key) -> dict[str, Array]:
            shape = nodes[name].shape
            moved = jax.random.bernoulli(key, shape=shape) if shape else True
            low, high = (costs(kwargs, key, end, moved) for end in (-np.pi, np.pi))
            return {
                term: ~jnp.all(jnp.abs(x - high[term]) <= TOLERANCE * (1 + jnp.abs(x)))
                for term, x in low.items()
            }

        keys = jax.random.split(jax.random.key(0), NUM_TRIALS)
        return jax.tree.map(jnp.any, jax.vmap(trial)(keys))

    found = differ(analysis.arguments.arrays)
    return [term for term, differs in found.items() if differs]
