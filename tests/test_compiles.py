"""The compile counter counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiles import count_compiles


@pytest.fixture
def double():
    return jax.jit(lambda x: x + x)


def test_first_call_traces_and_compiles_once(double):
    with count_compiles() as count:
        double(np.ones(3, np.float32))
    assert count.traces == 1
    assert count.compiles == 1
    assert "lambda" in count.compiled[0]


def test_second_call_at_the_same_shape_compiles_nothing(double):
    double(np.ones(3, np.float32))
    with count_compiles() as count:
        double(np.zeros(3, np.float32))
    assert (count.traces, count.compiles) == (0, 0)


def test_another_shape_or_dtype_compiles_again(double):
    double(np.ones(3, np.float32))
    with count_compiles() as count:
        double(np.ones(4, np.float32))
        double(np.ones(3, np.int32))
    assert count.compiles == 2


def test_a_new_jit_of_the_same_lambda_is_caught():
    """The mistake the counter is for: jit made anew in every call."""
    x = np.ones(3, np.float32)
    with count_compiles() as count:
        for _ in range(3):
            jax.jit(lambda x: jnp.sin(x) * 2)(x)
    assert count.compiles == 3


def test_nested_counts_see_their_own_block(double):
    with count_compiles() as outer:
        double(np.ones(2, np.float32))
        with count_compiles() as inner:
            double(np.ones(5, np.float32))
    double(np.ones(7, np.float32))
    assert (outer.compiles, inner.compiles) == (2, 1)
