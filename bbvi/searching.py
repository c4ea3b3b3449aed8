"""Which fits have a deterministic phase, and the program that makes its steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bbvi._types import Array, Data, Params
from bbvi.analysis.dependence import influences
from bbvi.analysis.primitives import equations, traced_once
from bbvi.compiling import Ahead
from bbvi.drawing import log_joint
from bbvi.estimators import Reparameterized
from bbvi.guides import FullRank, MeanField
from bbvi.guides.base import continuous_of, dimension
from bbvi.optimize.newton import Best, Search, begun, make_newton
from bbvi.planning import Plan

MAX_DIM = 300
"""Dimensions up to which Newton steps are affordable."""
FEWEST, EACH, MOST = 64, 4, 512
"""Fewest points of noise behind a Newton step, in all and for each dimension; most."""
MEMORY = 2**23
"""Numbers that draws, or points of noise, may hold at once."""
PASSES = 8
"""Passes of its loop that count as a call, of about 20 times as many in a fit."""
CHEAP = 2**16
"""Numbers that all points together may need without being felt."""


def newton_of(
    plan: Plan,
    full: Plan,
    like: Params,
    ahead: NDArray[Any] | None = None,
    before: Ahead | None = None,
) -> Ahead | None:
    """The program of the deterministic phase; None where there can be none.

    It is that of `make_newton` with one more argument, after the search: how much of
    the prior's centre is added to the mean from which it begins. It needs a
    full-rank or a factorised Gaussian, or a `Funnel`, over sites whose log joint is
    differentiated and not random: no minibatches, and no parameters of the model's own.

    Args:
        plan: Of the fit.
        full: The same over whole plates.
        like: Shapes of the parameters.
        ahead: Places of the elements that bend the family to which a `FullRank` fit may
            go on: its program then serves both.
        before: That of the family from which a fit comes, taken if it serves this one.
    """
    analysis, names, choices = plan.analysis, plan.drawn, plan.choices
    kept = all(isinstance(choices[n].estimator, Reparameterized) for n in names)
    others = analysis.parameters or analysis.subsampled
    if not (kept and names) or others:
        return None
    bending = plan.guide.bending(analysis, names)
    if not (plan.guide.is_gaussian or bending.size):
        return None
    dim = _dim(plan)
    if FullRank().refusals(analysis, names) or dim > MAX_DIM:
        return None
    if _is_noisy(full, names, like):
        return None
    if bending.size and before and before.shapes[0].bend.shape == (dim, len(bending)):
        return before
    if ahead is not None and isinstance(plan.guide, FullRank):
        bending = ahead
    nothing = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)

    def joint(vector: Array, data: Data) -> Array:
        return log_joint(full, names, nothing, data)(vector)[0]

    dtype = jnp.result_type(*jax.tree.leaves(like))
    vector, data = jax.ShapeDtypeStruct((dim,), dtype), analysis.arguments.shapes
    log_density, closed = traced_once(joint, vector, data)
    num_points = _num_points(full, dim, closed)
    climb = make_newton(
        log_density,
        is_diagonal=isinstance(plan.guide, MeanField),
        batch=max(1, MEMORY // full.num_elements),
        bending=bending,
    )

    def newton(search: Search, towards: Array, *given: Any) -> Search:
        kwargs = analysis.arguments.bind(given[-1])
        centres = plan.guide.centre(analysis, names, kwargs)
        centre = jnp.concatenate([centres[name].ravel() for name in names])
        return climb(search._replace(loc=search.loc + towards * centre), *given)

    loc, bend = np.zeros(dim, dtype), np.zeros((dim, len(bending)), dtype)
    start, real = begun(loc, np.identity(dim, dtype), bend), dtype.type(0)
    noise = (jax.ShapeDtypeStruct((num_points, dim)[::o], dtype) for o in (1, -1))
    given = start, real, *noise, Best(loc, loc, real), np.int32(0)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)
    return Ahead(newton, *shapes, *np.zeros(3, np.float32), data, times=PASSES)


def _num_points(full: Plan, dim: int, jaxpr: Any) -> int:
    """Points of noise behind a Newton step: as many as cost little, but enough.

    What a loop of unknown length costs, as in a solver, is not known.
    """
    loops = any(eqn.primitive.name == "while" for eqn, _ in equations(jaxpr.jaxpr))
    cheap = 0 if loops else min(CHEAP // full.num_elements, MOST)
    number = max(cheap, FEWEST, EACH * dim)
    return number - number % 2


def _dim(plan: Plan) -> int:
    return dimension(plan.analysis, continuous_of(plan.analysis, plan.drawn))


def _is_noisy(full: Plan, names: tuple[str, ...], like: Params) -> bool:
    """Whether random numbers of the model's own change its log joint."""
    if not full.analysis.draws_itself:
        return False

    def density(words: Array, vector: Array, params: Params, data: Data) -> Array:
        key = jax.random.wrap_key_data(words)
        return log_joint(full, names, params, data, key)(vector)[0]

    words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    vector = jax.ShapeDtypeStruct((_dim(full),), jnp.float32)
    shapes = full.analysis.arguments.shapes
    closed = jax.make_jaxpr(density)(words, vector, like, shapes)
    return "words" in influences(closed, ["words"])[0]
