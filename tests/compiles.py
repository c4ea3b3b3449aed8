"""Counting what JAX compiles, from the events that it publishes in `jax.monitoring`.

    with count_compiles() as count:
        fit(model, data)
    assert count.compiles == 0

`count.traces` are the jaxprs made, `count.compiles` the programs handed to XLA. Both
count the whole process: nothing else may run beside the counted lines, and operations
outside jit (`jnp.ones(3)` for the first time) are small programs that count too.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from bbvi.compiling import wait_for_compilers

_TRACE = "/jax/core/compile/jaxpr_trace_duration"
_COMPILE = "/jax/core/compile/backend_compile_duration"
_active: list["Count"] = []


@dataclasses.dataclass
class Count:
    """Names of the functions traced and compiled, in order."""

    traced: list[str] = dataclasses.field(default_factory=list)
    compiled: list[str] = dataclasses.field(default_factory=list)

    @property
    def traces(self) -> int:
        """How many functions were traced."""
        return len(self.traced)

    @property
    def compiles(self) -> int:
        """How many programs were compiled."""
        return len(self.compiled)


@contextlib.contextmanager
def count_compiles() -> Iterator[Count]:
    """Count traces and compilations of the block; may be nested."""
    wait_for_compilers()
    count = Count()
    _active.append(count)
    try:
        yield count
    finally:
        _active[:] = [other for other in _active if other is not count]


def _listen(event: str, _seconds: float, fun_name: str = "?", **_other) -> None:
    for count in _active:
        if event == _TRACE:
            count.traced.append(fun_name)
        elif event == _COMPILE:
            count.compiled.append(fun_name)


# Once for the process: listeners are global, and an idle one costs nothing.
jax.monitoring.register_event_duration_secs_listener(_listen)
