"""`LearnedBaseline`: what a row's data say about its cost, learnt from other rows."""

from dataclasses import dataclass

import jax.numpy as jnp

from bbvi._types import Array
from bbvi.estimators.base import Situation
from bbvi.estimators.controls import ControlVariate, Scored

RIDGE = 1e-2
"""Penalty of the regression, as a fraction of the features' variance."""


@dataclass(frozen=True, repr=False)
class LearnedBaseline(ControlVariate):
    r"""Of each row's cost, take off its prediction from the row's data.

    The costs of the rows are regressed on their features x, with a small ridge penalty,
    and row $n$ is predicted by the regression of all *other* rows,

    $$b_n = \hat f_{-n}(x_n) = f_n - \frac{f_n - \hat f(x_n)}{1 - h_n}, \qquad
      h = \mathrm{diag}\, X (X^\top X + \epsilon I)^{-1} X^\top,$$

    so that it does not depend on the row's own draw. It needs no parameters and no
    second optimizer, and adapts with every step. For amortised guides with one
    particle, whose costs differ from row to row. Cost: a least squares problem.

    Args:
        features: Name of the argument of the model that holds the features of the
            rows, one row each along its first axis. An intercept is added.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.LearnedBaseline("images")
        LearnedBaseline(features='images')

    References:
        Mnih and Gregor (2014), Neural variational inference and learning in belief
        networks, section 2.3, where the baseline is a network with an optimizer of its
        own; Allen (1974), The relationship between variable selection and data
        augmentation, for the prediction without the own row.
    """

    features: str

    def refusal(self, situation: Situation) -> str | None:
        known = situation.arguments
        if self.features not in known:
            return f"no data argument is called {self.features!r}"
        shape = known[self.features]
        axis = row_axis(situation.rows, shape)
        if axis is None:
            rows = shape[0] if shape else 0
            return f"its elements do not fall into the {rows} rows of {self.features}"
        if situation.site.shape[axis] < 2:
            return "a minibatch of one row has no other rows to learn from"
        return None

    def reason(self, situation: Situation) -> str:
        return f"minus a regression on {self.features} over the other rows"

    def surrogate(self, scored: Scored) -> Array:
        return scored.times(scored.cost - scored.baseline)


def row_axis(rows: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
    """The axis of a site that runs along the first axis of an array, if one does.

    Args:
        rows: For each axis of the site the number of its rows, 0 if they share costs.
        shape: Of the array.
    """
    if not shape or shape[0] < 2:
        return None
    return next((axis for axis, n in enumerate(rows) if n == shape[0]), None)


def predictions(features: Array, cost: Array) -> Array:
    """Prediction of every row by the regression of all other rows.

    Args:
        features: ``(num_rows, ...)``.
        cost: ``(num_rows, ...)``; all but the first axis are different costs.
    """
    num_rows = len(features)
    flat = jnp.reshape(features, (num_rows, -1)).astype(cost.dtype)
    spread = jnp.std(flat, 0)
    flat = (flat - jnp.mean(flat, 0)) / jnp.where(spread > 0, spread, 1.0)
    design = jnp.concatenate([jnp.ones((num_rows, 1), cost.dtype), flat], 1)
    gram = design.T @ design
    penalty = RIDGE * num_rows * jnp.eye(len(gram)).at[0, 0].set(0.0)
    solved = jnp.linalg.solve(gram + penalty, design.T)
    targets = jnp.reshape(cost, (num_rows, -1))
    leverage = jnp.sum(design * solved.T, 1)[:, None]
    rest = targets - design @ (solved @ targets)
    return jnp.reshape(targets - rest / (1 - leverage), cost.shape)
