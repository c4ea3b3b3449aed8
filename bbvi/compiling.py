"""Programs that are compiled on other threads until they are called, with due effort.

The compiler works outside of Python, so the programs of a fit are compiled side by side
while the next ones are traced.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from math import prod
from typing import Any

import jax

from bbvi.analysis.primitives import equations

EFFORTS = (2 * 10**7, 0), (10**8, 1), (10**9, 2)
"""Levels of optimisation of programs that make fewer numbers in a call than this."""

_compilers = ThreadPoolExecutor(
    max_workers=min(4, max(2, os.cpu_count() or 2)), thread_name_prefix="bbvi-compile"
)
_compiling: set[Future] = set()


class Ahead:
    """A pure function at given shapes, compiled once: when it is begun, or called.

    Args:
        function: What to compile.
        *shapes: Of its arguments.
        later: Gives them instead, once the function is traced.
        times: More work than is seen in it, as loops of unknown length are.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *shapes: Any,
        later: Callable[[], tuple[Any, ...]] | None = None,
        times: int = 1,
    ) -> None:
        self._function, self.shapes, self._times = function, shapes, times
        self._later = later
        self._compiled: Future | None = None

    def begin(self) -> "Ahead":
        """Trace, and have it compiled on another thread."""
        if self._compiled is None:
            self.shapes = self._later() if self._later else self.shapes
            traced = jax.jit(self._function).trace(*self.shapes)
            options = compiler_options(self._times * work_of(traced.jaxpr))
            compiling = traced.lower().compile
            self._compiled = _compilers.submit(compiling, compiler_options=options)
            _compiling.add(self._compiled)
            self._compiled.add_done_callback(_compiling.discard)
        return self

    def __call__(self, *args: Any) -> Any:
        return self.begin()._compiled.result()(*args)


def wait_for_compilers() -> None:
    """Wait until nothing compiles in the background, for those who count or time."""
    wait(list(_compiling))


def compiler_options(work: int) -> dict[str, Any]:
    """Less effort of the compiler for small programs, where compiling is the cost.

    Its optimised loops only pay once arrays are large.
    """
    levels = [level for most, level in EFFORTS if work < most]
    if jax.default_backend() != "cpu" or not levels:
        return {}
    return {"xla_backend_optimization_level": levels[0]}


def work_of(jaxpr: Any) -> int:
    """Numbers that a program makes, each pass of a ``while`` loop counted once.

    An entry of a product of matrices counts as many times as it has terms.
    """
    work = 0
    for eqn, times in equations(jaxpr.jaxpr):
        made = sum(prod(getattr(var.aval, "shape", ())) for var in eqn.outvars)
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            made *= 1 + prod(shape[axis] for axis in summed)
        work += times * made
    return work
