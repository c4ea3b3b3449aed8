"""No garbage collection while many objects are made that nearly all live."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

FROZEN = 1_000
"""Objects that the interpreter may have frozen itself; a user's own stay frozen."""


YOUNG = 1
"""Oldest generation that is looked at before the collector rests."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector, which would look at every object again and find nothing.

    Importing modules and tracing models are such times: a tenth of a cold fit. What was
    made meanwhile joins the oldest generation, as if it had been looked at; otherwise
    the first collection afterwards would make up for all that were left out.
    """
    was_enabled = gc.isenabled()
    if was_enabled:
        gc.collect(YOUNG)
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_freeze_count() < FROZEN:
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def look_once_at_the_end() -> None:
    """Have the interpreter collect once where it would twice: a tenth of a cold fit.

    It does so before and after it lets go of modules, the second time also where the
    collector is disabled. Only what is young needs the first look as well: it takes
    garbage away, and leaves containers before what they hold, in which order they
    must be closed.
    """
    atexit.register(gc.disable)
    atexit.register(gc.collect, YOUNG)
