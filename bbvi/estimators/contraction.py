"""Sums over the values of finite sites in log space, and draws by the same sums.

`contract` carries out a plan of `bbvi.estimators.elimination`. Its only operations are
broadcast sums of tables and log-sum-exp over some of their axes. With `Sampling` in the
place of `Exact`, the derivative of each log-sum-exp with respect to its argument is not
the conditional probability of the values that are summed but a draw from it, and so the
derivative of the whole with respect to the tables marks one joint draw.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bbvi._types import Array, Key
from bbvi.estimators.ordering import Label, Step, later


class Table(NamedTuple):
    """A log density for all values of some variables, along some axes.

    Attributes:
        log: The array.
        labels: What its axes run over.
    """

    log: Array
    labels: tuple[Label, ...]

    def along(self, labels: Sequence[Label]) -> Array:
        """The array with its axes in another order, and of size 1 where it has none."""
        order = [self.labels.index(x) for x in labels if x in self.labels]
        places = [i for i, x in enumerate(labels) if x not in self.labels]
        return lax.expand_dims(jnp.transpose(self.log, order), places)


class Exact:
    """Log-sum-exp as it is."""

    def __call__(self, log: Array, axes: tuple[int, ...]) -> Array:
        return log_sum(log, axes)

    def turns(self, number: int) -> Any:
        """What `at` needs for each turn of a loop."""
        return None

    def at(self, turn: Any) -> "Exact":
        """The same inside a turn of a loop."""
        return self


class Sampling(Exact):
    """Log-sum-exp whose derivative is a draw of the values that are summed.

    Args:
        key: Of the draws.

    References:
        Rush (2020), Torch-Struct: deep structured prediction library, section 5.
    """

    def __init__(self, key: Key) -> None:
        self.key = key

    def __call__(self, log: Array, axes: tuple[int, ...]) -> Array:
        return _sampled_sum(log, self.next(), axes)

    def turns(self, number: int) -> Any:
        return jax.random.split(self.next(), number)

    def at(self, turn: Any) -> "Sampling":
        return Sampling(turn)

    def next(self) -> Key:
        """A key that no other sum has."""
        self.key, key = jax.random.split(self.key)
        return key


def log_sum(log: Array, axes: tuple[int, ...]) -> Array:
    """Log-sum-exp whose derivative is zero, not NaN, where everything is impossible."""
    largest = lax.stop_gradient(jnp.max(log, axes, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.exp(log - largest), axes, keepdims=True)
    some = total > 0
    found = jnp.where(some, jnp.log(jnp.where(some, total, 1)) + largest, -jnp.inf)
    return jnp.squeeze(found, axes)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sampled_sum(log: Array, key: Key, axes: tuple[int, ...]) -> Array:
    return log_sum(log, axes)


def _sampled_sum_forward(log: Array, key: Key, axes: tuple[int, ...]) -> Any:
    return log_sum(log, axes), (log, key)


def _sampled_sum_backward(axes: tuple[int, ...], kept: Any, marks: Array) -> Any:
    log, key = kept
    last = tuple(range(-len(axes), 0))
    moved = jnp.moveaxis(log, axes, last)
    flat = moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)
    drawn = jax.nn.one_hot(jax.random.categorical(key, flat), flat.shape[-1])
    drawn = jnp.moveaxis(drawn.reshape(moved.shape), last, axes)
    marks = jnp.expand_dims(marks, axes) * drawn.astype(log.dtype)
    return marks, np.zeros(key.shape, jax.dtypes.float0)


_sampled_sum.defvjp(_sampled_sum_forward, _sampled_sum_backward)


def contract(step: Step, tables: Mapping[str, Table], total: Exact) -> Table:
    """The sum of a step and of all that come before it.

    Args:
        step: The last step of a group.
        tables: Of its factors by name.
        total: How to sum in log space.

    Returns:
        Log sums along the axes that the step leaves.
    """
    operands = [tables[name] for name in step.factors]
    operands += [contract(before, tables, total) for before in step.before]
    if step.chain is None:
        found = _pairwise(operands, step.labels, step.path, total)
    else:
        found = _along_chain(operands, step, total)
    gone = [i for i, x in enumerate(step.labels) if isinstance(x, int)]
    gone = tuple(i for i in gone if step.labels[i] not in step.axes)
    return Table(jnp.sum(found, gone), step.scope)


def _pairwise(
    operands: Sequence[Table],
    output: Sequence[Label],
    path: Sequence[tuple[int, ...]],
    total: Exact,
) -> Array:
    """Products of a few tables at a time, summed over what no other needs."""
    left = list(operands)
    for taken in path:
        chosen = [left.pop(i) for i in sorted(taken, reverse=True)]
        union = list(dict.fromkeys(x for table in chosen for x in table.labels))
        log = sum(table.along(union) for table in chosen)
        needed = set(output).union(*(table.labels for table in left))
        gone = tuple(i for i, x in enumerate(union) if x not in needed)
        kept = tuple(x for x in union if x in needed)
        left.append(Table(total(log, gone) if gone else log, kept))
    return left[0].along(output)


def _along_chain(operands: Sequence[Table], step: Step, total: Exact) -> Array:
    """One pass over a chain, with a message over its last values.

    Before its first step a chain has no values; the message stands for them by their
    first one alone, on which no table depends there.
    """
    inside = [tuple(x for x in t.labels if x != step.chain) for t in operands]
    turns = [t.along((step.chain, *i)) for t, i in zip(operands, inside, strict=True)]
    seen = tuple(later(label, step) for label in step.inner)
    sizes = {
        label: size
        for log, labels in zip(turns, inside, strict=True)
        for label, size in zip(labels, log.shape[1:], strict=True)
    }
    num_recent = len(step.inner) - len(step.labels)
    first = jnp.zeros([sizes[x] for x in seen], turns[0].dtype)
    for axis in range(num_recent):
        shape = [-1 if a == axis else 1 for a in range(first.ndim)]
        first += jnp.where(jnp.arange(first.shape[axis]) == 0, 0, -jnp.inf).reshape(
            shape
        )

    def turn(message: Array, x: Any) -> tuple[Array, None]:
        logs, key = x
        tables = [Table(log, i) for log, i in zip(logs, inside, strict=True)]
        tables.append(Table(message, seen))
        return _pairwise(tables, step.inner, step.path, total.at(key)), None

    number = turns[0].shape[0]
    message, _ = lax.scan(turn, first, (turns, total.turns(number)))
    return total(message, tuple(range(num_recent)))
