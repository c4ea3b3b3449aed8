"""Cost terms as tables over the values of finite sites.

The model is run once for each kind of group, inside a `vmap` for each colour: all sites
of a colour, and every so many elements of a chain, take the same values together, which
no cost term can tell. A table is read off the result, its axes in the order of the
term's variables.
"""

from collections.abc import Mapping
from math import lcm
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bbvi._types import Array, Key, Values
from bbvi.analysis import Analysis
from bbvi.analysis.tracing import log_density, run, sample_sites, scaled
from bbvi.estimators.contraction import Exact, Sampling, Table, contract
from bbvi.estimators.elimination import Group
from bbvi.estimators.ordering import Factor

Tables = dict[str, Table]


def first_values(analysis: Analysis, groups: tuple[Group, ...]) -> Values:
    """The first value of every site that is summed out, to run the model with."""
    sites = [analysis.sites[name] for group in groups for name in group.sites]
    return {s.name: jnp.full(s.shape, s.values[0], s.dtype) for s in sites}


def factor_tables(
    analysis: Analysis,
    groups: tuple[Group, ...],
    kwargs: Mapping[str, Any],
    key: Key,
    values: Values,
) -> Tables:
    """Log densities of every cost term of some groups as tables.

    Raised to the power of `handlers.scale`, but not times the scale of their plates.

    Args:
        analysis: Of the model.
        groups: Whose terms.
        kwargs: The model's arguments.
        key: For what the model draws itself.
        values: Of all sites that are not in the groups.

    Returns:
        Tables by term. Cost: one trace of the model for groups that try the same
        numbers of values, and their product of evaluations.
    """
    tables: Tables = {}
    values = {**values, **first_values(analysis, groups)}
    for sizes in dict.fromkeys(group.values for group in groups):
        alike = [group for group in groups if group.values == sizes]

        def evaluate(*index: Array, alike: list[Group] = alike) -> dict[str, Array]:
            chosen = {
                name: _chosen(analysis, group, name, index)
                for group in alike
                for name in group.sites
            }
            sites = sample_sites(run(analysis.model, kwargs, key, {**values, **chosen}))
            found = {}
            for group in alike:
                for term, factor in group.factors.items():
                    site, repeats = sites[term], analysis.plate_scale(term)
                    log = scaled(log_density(site), site, repeats)
                    if factor.flipped:
                        log = jnp.flip(log, factor.flipped)
                    gone = [a for a in range(jnp.ndim(log)) if a not in factor.axes]
                    found[term] = jnp.sum(log, tuple(gone))
            return found

        for colour in reversed(range(len(sizes))):
            axes = [0 if c == colour else None for c in range(len(sizes))]
            evaluate = jax.vmap(evaluate, axes)
        found = evaluate(*map(jnp.arange, sizes))
        for group in alike:
            for term, factor in group.factors.items():
                tables[term] = _table(group, factor, found[term])
            tables |= _ends(group)
    return tables


def _chosen(
    analysis: Analysis, group: Group, name: str, index: tuple[Array, ...]
) -> Array:
    """A site's value where every colour takes the value of its index."""
    site = analysis.sites[name]
    finite = jnp.asarray(site.values, site.dtype)
    colours = group.colours[name]
    each = [finite[jnp.minimum(index[c], len(finite) - 1)] for c in colours]
    value = jnp.full(site.shape, each[0])
    if len(each) > 1:
        axis = group.axes[name].index(group.chain)
        shape = [-1 if a == axis else 1 for a in range(len(site.shape))]
        phase = (np.arange(site.shape[axis]) % len(each)).reshape(shape)
        for i, other in enumerate(each[1:], 1):
            value = jnp.where(phase == i, other, value)
    return value


def _table(group: Group, factor: Factor, found: Array) -> Table:
    """The table of a factor from its values for every colour."""
    num_colours = len(group.values)
    labels = factor.variables + factor.numbers
    period = lcm(*(len(group.colours[name]) for name, _ in factor.variables))

    def at(step: int) -> Array:
        """As if all elements stood at steps that are equal to one, up to a period."""
        colour = {}
        for name, lag in factor.variables:
            own = group.colours[name]
            colour[own[(step - lag) % len(own)]] = (name, lag)
        order = [next(c for c in colour if colour[c] == v) for v in factor.variables]
        index = tuple(
            slice(group.sizes[colour[c]]) if c in colour else 0
            for c in range(num_colours)
        )
        used = sorted(order)
        rest = range(len(used), len(used) + len(factor.numbers))
        return jnp.transpose(found[index], [*map(used.index, order), *rest])

    log = at(0)
    if group.chain not in factor.numbers:
        return Table(log, labels)
    axis = labels.index(group.chain)
    shape = [-1 if a == axis else 1 for a in range(len(labels))]
    steps = group.begin + factor.start + np.arange(log.shape[axis])
    for step in range(1, period):
        log = jnp.where((steps % period == step).reshape(shape), at(step), log)
    pad = [(0, 0)] * len(labels)
    pad[axis] = (factor.start, group.sizes[group.chain] - factor.start - len(steps))
    return Table(jnp.pad(log, pad), labels)


def _ends(group: Group) -> Tables:
    """Where a site has no element on the chain, its first value stands for none."""
    tables = {}
    for label, factor in group.ends.items():
        labels = factor.variables + factor.numbers
        steps = group.begin + np.arange(group.sizes[group.chain])
        exists = (steps >= 0) & (steps < group.length)
        first = np.arange(group.sizes[labels[0]]) == 0
        shape = [group.sizes[x] if x in (labels[0], group.chain) else 1 for x in labels]
        log = jnp.where(first[:, None] | exists, 0.0, -jnp.inf).reshape(shape)
        log = jnp.broadcast_to(log, [group.sizes[x] for x in labels])
        tables[label] = Table(log, labels)
    return tables


def log_total(group: Group, tables: Tables) -> Array:
    """Log of the sum over all values of a group, unscaled.

    Returns:
        Along the axes of the site ``group.last``; of size 1 where they were added up.
    """
    return contract(group.step, tables, Exact()).along(group.axes[group.last])


def draw_group(analysis: Analysis, group: Group, tables: Tables, key: Key) -> Values:
    """One draw of a group's sites from their exact joint conditional.

    The derivative of the total with respect to a table, of which `Sampling` makes a
    draw, marks the values that were drawn.
    """
    own = {name: tables[name].log for name in group.sites}

    def total(own: Values) -> Array:
        given = {name: Table(log, tables[name].labels) for name, log in own.items()}
        return jnp.sum(contract(group.step, {**tables, **given}, Sampling(key)).log)

    drawn = {}
    for name, marks in jax.grad(total)(own).items():
        site, labels = analysis.sites[name], tables[name].labels
        variable = next(x for x in labels if not isinstance(x, int) and x[0] == name)
        others = [
            i for i, x in enumerate(labels) if not isinstance(x, int) and x != variable
        ]
        numbers = tuple(x for x in labels if isinstance(x, int))
        marked = Table(jnp.sum(marks, tuple(others)), (variable, *numbers))
        index = jnp.argmax(marked.along((variable, *group.axes[name])), 0)
        if group.chain in numbers:
            axis = group.axes[name].index(group.chain)
            first = variable[1] - group.begin
            index = lax.slice_in_dim(index, first, first + group.length, axis=axis)
        drawn[name] = jnp.asarray(site.values, site.dtype)[index]
    return drawn
