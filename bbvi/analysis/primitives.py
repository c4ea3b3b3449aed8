"""JAX's primitives by what they do to continuity, and jaxprs, which consist of them.

Whatever is not listed is unknown, and so a break (`bbvi.analysis.smoothness`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

_CONTINUOUS = """
abs acos acosh add add_any addupdate and approx_top_k asin asinh atan atanh bessel_i0e
bessel_i1e broadcast_in_dim cbrt cholesky clamp clz complex concatenate conj
conv_general_dilated copy copy_p cos cosh cumlogsumexp cummax cummin cumprod cumsum
custom_linear_solve device_put digamma div dot_general dynamic_slice
dynamic_update_slice erf erf_inv erfc exp exp2 expand_dims expm1 fft freeze gather get
householder_product igamma igamma_grad_a igammac imag integer_pow lgamma log log1p log2
logistic max min mul mulhi name neg new_ref nextafter not one_minus_square
optimization_barrier or pad polygamma population_count pow ragged_dot_general
random_gamma_grad real reduce_and reduce_max reduce_min reduce_or reduce_precision
reduce_prod reduce_sum reduce_window_max reduce_window_min reduce_window_sum reduce_xor
regularized_incomplete_beta reshape rev rsqrt scatter scatter-add scatter-max
scatter-min scatter-mul scatter-sub select_and_gather_add select_and_scatter_add
select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sin
sinh slice split sqrt square squeeze stack sub swap tan tanh tile transpose
triangular_solve tridiagonal_solve unstack xor zeta
"""
CONTINUOUS = frozenset(_CONTINUOUS.split())
"""Continuous on their domains, kinks included; integers and booleans pass through."""
STEPS = frozenset(
    ("argmax", "argmin", "ceil", "eq_to", "floor", "le_to", "lt_to", "round", "sign")
)
"""Constant between jumps, besides comparisons."""
COMPARISONS = frozenset(("eq", "ge", "gt", "is_finite", "le", "lt", "ne"))
"""Constant between jumps; in JAX's own functions mostly guards."""
HIDING = frozenset(("eig", "eigh", "hessenberg", "qr", "schur", "svd"))
"""Their signs and orders are arbitrary, so only what does not feel them is smooth."""
_CALLS = "call checkpoint closed_call composite core_call jit pjit remat remat2"
CALLS = frozenset(_CALLS.split())
"""They run another jaxpr."""

_JAX, _NUMPYRO = (Path(module.__file__).parent for module in (jax, numpyro))
_LIBRARIES = (f"{_JAX}/", f"{_NUMPYRO}/")
_OWN = f"{Path(__file__).parents[1]}/"
_GUARDS = tuple(
    str(_JAX / "_src" / part)
    for part in (
        "nn/functions.py",
        "ops/special.py",
        "scipy/special.py",
        "third_party/scipy/",
    )
) + (str(_NUMPYRO / "distributions" / "util.py"),)
_WITH_CUT = "acos acosh asin asinh atan atanh log log1p pow rsqrt sqrt"
_CUT = frozenset(_WITH_CUT.split())
_GUARD_NAMES = frozenset(
    ("Beta.log_prob", "_MixtureBase.log_prob", "_Real.__call__", "_to_logits_multinom")
)
_JUMPY = frozenset(("gammasgn", "one_hot"))
_MIXTURES = ("Hurdle", "ZeroInflated", "Mixture", "_Mixture")


def is_continuous(var: Any) -> bool:
    """Whether a variable is of a floating or complex type."""
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def has_cut(eqn: Any) -> bool:
    """Whether an equation is a complex function with a branch cut."""
    dtype = getattr(eqn.outvars[0].aval, "dtype", np.float32)
    return eqn.primitive.name in _CUT and jnp.issubdtype(dtype, jnp.complexfloating)


def is_library(jaxpr: Any) -> bool:
    """Whether a jaxpr is a function of JAX or NumPyro."""
    return _source(jaxpr)[1].startswith(_LIBRARIES)


def is_trusted(jaxpr: Any) -> bool:
    """Whether a function with a derivative rule is of JAX, NumPyro or this package."""
    return _source(jaxpr)[1].startswith((*_LIBRARIES, _OWN))


def is_guarded(jaxpr: Any) -> bool:
    """Whether a jaxpr is a function of theirs that is known to be continuous."""
    name, file = _source(jaxpr)
    return file.startswith(_GUARDS) and name not in _JUMPY


def _source(jaxpr: Any) -> tuple[str, str]:
    """Name and file of the function that a jaxpr was made from."""
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    info = getattr(inner, "debug_info", None)
    name, _, file = (getattr(info, "func_src_info", None) or "").partition(" at ")
    return name, file


def in_guard(eqn: Any) -> bool:
    """Whether an equation is written in a continuous function of JAX or NumPyro.

    `jax.nn`, `jax.scipy.special`, ``logsumexp`` and the helpers of NumPyro's densities
    compare, and stop gradients, to stay finite; their values do not jump.
    """
    for frame in _frames(eqn):
        name = frame.function_name
        if frame.file_name.startswith(_GUARDS):
            return name not in _JUMPY
        if not frame.file_name.startswith(_LIBRARIES[0]):
            is_numpyro = frame.file_name.startswith(_LIBRARIES[1])
            return is_numpyro and name in _GUARD_NAMES
    return False


def in_support_check(eqn: Any) -> bool:
    """Whether an equation asks if a site's value lies in its distribution's support.

    It is one of a constraint of NumPyro's, called for a log density by nothing but
    NumPyro's own distributions, mixtures excepted, whose components have supports of
    their own.
    """
    checks = False
    for frame in _frames(eqn):
        if frame.file_name.endswith("bbvi/analysis/tracing.py"):
            return checks
        if not frame.file_name.startswith(_LIBRARIES):
            return False
        if frame.function_name.startswith(_MIXTURES):
            return False
        checks |= frame.file_name.endswith("distributions/constraints.py")
    return False


def _frames(eqn: Any) -> list[Any]:
    traceback = getattr(eqn.source_info, "traceback", None)
    return [] if traceback is None else traceback.frames


def traced_once(function: Callable[..., Any], *shapes: Any) -> tuple[Any, ClosedJaxpr]:
    """The function of a jaxpr, which no later trace runs again, and the jaxpr.

    Args:
        function: Of trees of arrays, to one array.
        *shapes: Of its arguments.
    """
    closed = jax.make_jaxpr(function)(*shapes)

    def again(*given: Any) -> Any:
        return jaxpr_as_fun(closed)(*jax.tree.leaves(given))[0]

    return again, closed


def opened(jaxpr: Any) -> Any:
    """The jaxpr inside a closed one."""
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def equations(jaxpr: Any) -> Iterator[tuple[Any, int]]:
    """All equations, those inside others too, and how often each is run at least."""
    for eqn in jaxpr.eqns:
        yield eqn, 1
        times = eqn.params.get("length", 1)
        for leaf in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(leaf):
                yield from ((e, times * n) for e, n in equations(opened(leaf)))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))
