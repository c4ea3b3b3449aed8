"""When do two programs compute the same? `fingerprint`."""

import hashlib
import uuid
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from bbvi.analysis.primitives import equations, is_trusted


def fingerprint(closed: ClosedJaxpr, *records: Any) -> str:
    """A digest that is equal for two programs only if they compute the same.

    Of derivative rules of one's own a jaxpr shows only the name, so the program's
    derivative counts as well where there are any.
    """
    digest = hashlib.sha256()
    _add(digest, closed)
    if _has_own_rule(closed):
        try:
            _add(digest, _derivative(closed))
        except (NotImplementedError, TypeError, ValueError):  # it has none
            digest.update(uuid.uuid4().bytes)
    for record in records:
        digest.update(repr(record).encode())
    return digest.hexdigest()


def _add(digest: Any, closed: ClosedJaxpr) -> None:
    digest.update(str(closed.jaxpr).encode())
    for const in closed.consts:
        if isinstance(const, jax.core.Tracer):
            digest.update(repr(id(const)).encode())
            continue
        if jax.dtypes.issubdtype(
            getattr(const, "dtype", np.float32), jax.dtypes.prng_key
        ):
            const = jax.random.key_data(const)
        array = np.asarray(const)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())


def _has_own_rule(closed: ClosedJaxpr) -> bool:
    """Whether a derivative rule is of neither JAX, NumPyro nor bbvi."""
    return any(
        eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call")
        and not is_trusted(eqn.params["call_jaxpr"])
        for eqn, _ in equations(closed.jaxpr)
    )


def _derivative(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Reverse-mode derivative of the floats that come out in those that go in."""
    inputs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in closed.in_avals]
    moved = [i for i, x in enumerate(inputs) if _is_float(x)]

    def pulled(values: list[Any]) -> Any:
        def floats(changed: list[Any]) -> list[Any]:
            given = dict(enumerate(values)) | dict(zip(moved, changed, strict=True))
            return [x for x in jaxpr_as_fun(closed)(*given.values()) if _is_float(x)]

        found, pull = jax.vjp(floats, [values[i] for i in moved])
        return pull(found)

    return jax.make_jaxpr(pulled)(inputs)


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
