"""No garbage collection while many objects are made that nearly all live."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector, which would look at every object again and find nothing.

    Importing modules and tracing models are such times: a tenth of a cold fit.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
