"""Programs compiled ahead: once, on another thread, with the effort they are worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbvi.compiling import (
    EFFORTS,
    Ahead,
    compiler_options,
    wait_for_compilers,
    work_of,
)
from tests.compiles import count_compiles


def test_it_is_compiled_once_when_it_is_called():
    def double(x):
        return 2 * x

    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    with count_compiles() as count:
        function = Ahead(double, shape)
    assert (count.traces, count.compiles) == (0, 0)
    with count_compiles() as count:
        assert np.array_equal(function(np.ones(3, np.float32)), [2, 2, 2])
        assert np.array_equal(function(np.zeros(3, np.float32)), [0, 0, 0])
    assert (count.traces, count.compiles) == (1, 1)


def test_begun_ahead_a_call_compiles_nothing():
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    with count_compiles() as count:
        function = Ahead(lambda x: x + 1, shape).begin().begin()
        wait_for_compilers()
    assert count.compiles == 1
    with count_compiles() as count:
        assert np.asarray(function(np.float32(1))) == 2
    assert (count.traces, count.compiles) == (0, 0)


def test_what_cannot_be_traced_says_so_each_time():
    def refuses(x):
        raise NotImplementedError("no derivative")

    function = Ahead(refuses, jax.ShapeDtypeStruct((), jnp.float32))
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="no derivative"):
            function(np.float32(1))


def steps(x):
    return jax.lax.scan(lambda x, _: (jnp.sin(x) + 1, None), x, None, length=10)[0]


WORK = {
    "an entry each": (lambda x: x + x, (4, 5), 20),
    "a product's terms": (lambda x: x @ x.T, (4, 5), 16 * (1 + 5) + 20),
    "every pass of a scan": (steps, (4,), 10 * 2 * 4 + 4),
}


@pytest.mark.parametrize("case", WORK)
def test_work_is_counted(case):
    function, shape, expected = WORK[case]
    jaxpr = jax.make_jaxpr(function)(jnp.zeros(shape))
    assert work_of(jaxpr) == expected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an option of CPUs")
def test_effort_grows_with_the_work():
    level = "xla_backend_optimization_level"
    for most, effort in EFFORTS:
        assert compiler_options(most - 1) == {level: effort}
    assert [effort for _, effort in EFFORTS] == [0, 1, 2]
    assert compiler_options(EFFORTS[-1][0]) == {}
