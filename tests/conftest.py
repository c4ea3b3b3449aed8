"""What holds for every test: fixed seeds, one precision, no window, no hogged GPU.

x64 is off unless the environment says otherwise (`JAX_ENABLE_X64=1 pytest`); a test
that needs it turns it on around its own lines, and is caught if it leaves it on.
"""

import importlib
import os
import random
import warnings
from collections import OrderedDict

# Read when jax and matplotlib start, hence before the imports below: several workers
# share one GPU, no test opens a window, and compiling, most of what tests do, is quick,
# as it is for bbvi's own small programs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# No deadline: the first example of a property pays for the compilation.
hypothesis.settings.register_profile(
    "bbvi", derandomize=True, deadline=None, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("bbvi")


@pytest.fixture
def stochastic(monkeypatch):
    """Fits without a deterministic phase, like those of models that can have none."""
    monkeypatch.setattr("bbvi.programs.newton_of", lambda *_: None)
    monkeypatch.setattr("bbvi.programs._kept", OrderedDict())


def pytest_configure(config):
    """Import ArviZ once before the workers do.

    At its first import on a day ArviZ 0.x warns and writes a file, at which several
    processes at once trip over each other.
    """
    if not hasattr(config, "workerinput"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("arviz")


@pytest.fixture(autouse=True)
def _same_seeds_for_every_test():
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _precision_is_left_as_found():
    before = jax.config.jax_enable_x64
    yield
    after = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", before)
    assert after == before, "the test changed jax_enable_x64 and left it changed"


@pytest.fixture
def key():
    """A JAX key, the same in every run."""
    return jax.random.key(0)
