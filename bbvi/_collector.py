"""No garbage collection while many objects are made that nearly all live."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FROZEN = 1_000
"""Objects that the interpreter may have frozen itself; a user's own stay frozen."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector, which would look at every object again and find nothing.

    Importing modules and tracing models are such times: a tenth of a cold fit. What was
    made meanwhile joins the oldest generation, as if it had been looked at; otherwise
    the first collection afterwards would make up for all that were left out.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_freeze_count() < FROZEN:
                gc.freeze()
                gc.unfreeze()
            gc.enable()
