"""What `bbvi.analyze` finds out, and what it says to bad input."""

from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import bbvi
from bbvi.analysis import tracing
from bbvi.analysis.windows import Aligned
from tests.compiles import count_compiles

sample = numpyro.sample
Y3 = np.array([0.3, 1.9, -0.4], np.float32)


def normal(y):
    mu = sample("mu", dist.Normal(0, 1))
    sample("y", dist.Normal(mu, 1), obs=y)


def rows(y):
    mu = sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(mu, 1), obs=y)


# --- what is found -------------------------------------------------------------------


def test_plate():
    found = bbvi.analyze(rows, {"y": Y3})
    assert list(found.latents) == ["mu"]
    assert found.sites["y"].kind == "observed"
    assert found.sites["y"].plates == ("rows",)
    assert found.plates["rows"].size == 3
    assert not found.plates["rows"].is_subsampled
    assert found.influence == {"mu": {"mu": ()}, "y": {"mu": ()}}
    assert found.children("mu") == ["mu", "y"]


def nested(y):
    with numpyro.plate("groups", 2, dim=-2):
        a = sample("a", dist.Normal(0, 1))
        with numpyro.plate("rows", 3, dim=-1):
            b = sample("b", dist.Normal(a, 1))
            sample("y", dist.Normal(b, 1), obs=y)


def test_nested_plates():
    found = bbvi.analyze(nested, {"y": np.zeros((2, 3), np.float32)})
    assert found.sites["a"].shape == (2, 1)
    assert set(found.sites["b"].plates) == {"groups", "rows"}
    # An axis of size 1 is aligned with nothing: it is broadcast over the rows.
    assert found.influence["b"] == {
        "a": (Aligned(0), None),
        "b": (Aligned(0), Aligned(1)),
    }
    assert found.influence["y"] == {"b": (Aligned(0), Aligned(1))}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_subsampled_plate(batch):
    def model(y):
        with numpyro.plate("rows", 3, batch) as index:
            z = sample("z", dist.Normal(0, 1))
            sample("y", dist.Normal(z, 1), obs=y[index])

    found = bbvi.analyze(model, {"y": Y3})
    plate = found.plates["rows"]
    assert (plate.size, plate.subsample_size) == (3, batch)
    assert plate.is_subsampled == (batch < 3)
    assert set(found.subsampled) == ({"rows"} if batch < 3 else set())
    assert found.sites["z"].scale == found.sites["y"].scale == 3 / batch
    assert found.sites["z"].shape == (batch,)


def test_scale_and_mask():
    def model(y):
        with handlers.scale(scale=2.5):
            a = sample("a", dist.Normal(0, 1))
        with handlers.mask(mask=np.array([True, False, True])):
            b = sample("b", dist.Normal(a, 1).expand([3]))
        sample("y", dist.Normal(b, 1), obs=y)

    found = bbvi.analyze(model, {"y": Y3}).sites
    assert [found[n].scale for n in "aby"] == [2.5, 1.0, 1.0]
    assert [found[n].is_masked for n in "aby"] == [False, True, False]


def test_array_of_scales_is_unknown():
    def model(y):
        with handlers.scale(scale=jnp.array([1.0, 2.0, 3.0])):
            z = sample("z", dist.Bernoulli(0.3).expand([3]))
        sample("y", dist.Normal(z, 1), obs=y)

    assert bbvi.analyze(model, {"y": Y3}).sites["z"].scale is None


def test_events_stay_elements():
    def model(y):
        z = sample("z", dist.Normal(0, 1).expand([3]).to_event(1))
        sample("y", dist.Normal(z, 1).to_event(1), obs=y)

    found = bbvi.analyze(model, {"y": Y3})
    assert found.sites["z"].event_dim == 1
    assert found.influence == {"z": {"z": (Aligned(0),)}, "y": {"z": (Aligned(0),)}}


def test_factor_and_deterministic():
    def model(y):
        z = sample("z", dist.Normal(0, 1).expand([3]))
        twice = numpyro.deterministic("twice", 2 * z)
        numpyro.factor("cost", -((twice - y) ** 2))

    found = bbvi.analyze(model, {"y": Y3})
    assert [s.kind for s in found.sites.values()] == [
        "latent",
        "deterministic",
        "factor",
    ]
    assert found.influence["cost"] == {"z": (Aligned(0),)}
    assert "twice" not in found.influence


def test_parameters():
    def model(y):
        m = numpyro.param("m", jnp.zeros(2))
        s = numpyro.param("s", 1.0, constraint=constraints.positive)
        z = sample("z", dist.Normal(m, s))
        sample("y", dist.Normal(z, 1), obs=y)

    found = bbvi.analyze(model, {"y": Y3[:2]}).parameters
    assert list(found) == ["m", "s"]
    assert found["m"].shape.shape == (2,)
    assert found["s"].constraint is constraints.positive


def test_support_of_a_parameter():
    """The support of its initial value is not the support."""

    def model(y):
        top = numpyro.param("top", 2.0, constraint=constraints.positive)
        x = sample("x", dist.Uniform(0, top))
        sample("y", dist.Uniform(x - top, x + top), obs=y)

    found = bbvi.analyze(model, {"y": 25 * Y3[0]})
    assert not found.sites["x"].static_support
    assert not found.sites["y"].static_support


def test_scan_with_latents():
    def model(y):
        def step(before, y):
            x = sample("x", dist.Normal(before, 1))
            sample("y", dist.Normal(x, 1), obs=y)
            return x, None

        scan(step, jnp.array(0.0), y)

    found = bbvi.analyze(model, {"y": Y3})
    assert found.sites["x"].shape == (3,)
    # The step before reaches the density of the next one.
    assert found.influence["x"] == {"x": (Aligned(0, 0, 1),)}
    assert found.influence["y"] == {"x": (Aligned(0),)}


def test_imputation():
    def model(y, seen):
        mu = sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 3):
            sample("y", dist.Normal(mu, 1), obs=y, obs_mask=seen)

    found = bbvi.analyze(model, {"y": Y3, "seen": np.array([True, False, True])})
    assert set(found.latents) == {"mu", "y_unobserved"}
    assert found.sites["y_unobserved"].is_masked


def test_improper_prior():
    def model(y):
        mu = sample("mu", dist.ImproperUniform(constraints.positive, (), ()))
        sample("y", dist.Normal(mu, 1), obs=y)

    site = bbvi.analyze(model, {"y": 0.3}).sites["mu"]
    assert site.distribution == "ImproperUniform"
    assert not site.is_discrete


def test_support_that_moves():
    def model(y):
        top = sample("top", dist.Gamma(4.0, 2.0))
        x = sample("x", dist.Uniform(0, top))
        sample("y", dist.Normal(x, 1), obs=y)

    found = bbvi.analyze(model, {"y": 0.3})
    assert found.sites["top"].static_support
    assert not found.sites["x"].static_support
    assert found.influence["x"] == {"top": (), "x": ()}


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (dist.Bernoulli(0.3), [0, 1]),
        (dist.Categorical(jnp.ones(3) / 3), [0, 1, 2]),
        (dist.DiscreteUniform(2, 5), [2, 3, 4, 5]),
        (dist.Binomial(3, 0.4), [0, 1, 2, 3]),
        (dist.Poisson(2.0), None),
        (dist.Normal(0, 1), None),
    ],
)
def test_finite_values(distribution, values):
    def model():
        sample("z", distribution)

    found = bbvi.analyze(model).sites["z"].values
    assert (found is None) if values is None else (found.tolist() == values)


def test_coupling_inside_a_plate_is_found():
    def model(y):
        with numpyro.plate("rows", 3):
            z = sample("z", dist.Bernoulli(0.3))
            sample("y", dist.Normal(z.sum() + jnp.zeros(3), 1), obs=y)

    assert bbvi.analyze(model, {"y": Y3}).influence["y"] == {"z": (None,)}


@pytest.mark.parametrize(
    "data",
    [
        {"y": Y3},
        {"y": Y3.tolist()},
        {"y": jnp.asarray(Y3)},
        (Y3,),
        pd.DataFrame({"y": Y3, "unused": ["a", "b", "c"]}),
    ],
    ids=["mapping", "list", "jax", "tuple", "frame"],
)
def test_kinds_of_data(data):
    found = bbvi.analyze(rows, data).arguments
    assert list(found.arrays) == ["y"]
    assert found.arrays["y"].shape == (3,)
    np.testing.assert_allclose(found.arrays["y"], Y3)


def test_polars_frame():
    polars = pytest.importorskip("polars")
    found = bbvi.analyze(rows, polars.DataFrame({"y": Y3}))
    assert list(found.arguments.arrays) == ["y"]


def test_static_arguments_and_defaults():
    def model(y, size, name="x", *, flag=False):
        assert size == 3
        assert name == "x"
        assert not flag
        with numpyro.plate("rows", size):
            sample("y", dist.Normal(sample("mu", dist.Normal(0, 1)), 1), obs=y)

    found = bbvi.analyze(model, {"y": Y3, "size": 3}).arguments
    assert set(found.arrays) == {"y"}
    assert found.static == {"size": 3}


def test_nested_arguments():
    def model(data):
        mu = sample("mu", dist.Normal(0, 1))
        sample("y", dist.Normal(mu * data["x"], 1), obs=data["y"])

    found = bbvi.analyze(model, {"data": {"x": Y3, "y": Y3}})
    assert set(found.arguments.arrays["data"]) == {"x", "y"}


def test_numbers_beside_nested_arrays_stay_static():
    def model(data):
        z = sample("z", dist.Categorical(jnp.ones(3) / 3))
        with numpyro.plate("rows", data["size"]):
            sample("y", dist.Normal(data["means"][z], data["sd"]), obs=data["y"])

    data = {"size": 3, "name": "rows", "sd": 0.5, "means": [0.0, 1.0, 2.0], "y": Y3}
    arguments = bbvi.analyze(model, {"data": data}).arguments
    leaves = jax.tree.leaves(arguments.arrays)
    assert [np.shape(x) for x in leaves] == [(3,), (3,)]
    static = {"size": 3, "name": "rows", "sd": 0.5, "means": None, "y": None}
    assert arguments.static["data"] == static
    value, _ = bbvi.loss(plan := bbvi.plan(model, {"data": data}))(
        plan.init(jax.random.key(0)), jax.random.key(1), {"data": data}
    )
    logs = dist.Normal(jnp.arange(3.0), 0.5).log_prob(Y3[:, None]).sum(0)
    exact = jax.nn.logsumexp(logs) - jnp.log(3.0)
    np.testing.assert_allclose(-value, exact, rtol=1e-5)


def test_bad_values_beside_static_ones_are_found():
    def model(data):
        sample("y", dist.Normal(sample("mu", dist.Normal(0, 1)), 1), obs=data["y"])

    data = {"size": 3, "y": np.array([0.0, np.nan])}
    raises(model, {"data": data}, "argument 'data' has 1 values that are NaN")


def test_columns_are_arrays():
    column = pd.Series(Y3, index=[5, 6, 7])
    arrays = bbvi.analyze(rows, {"y": column}).arguments.arrays
    assert isinstance(arrays["y"], np.ndarray)


def test_a_masked_array_would_lose_its_mask():
    message = raises(rows, {"y": np.ma.masked_less(Y3, 0.5)}, "'y' is a masked array")
    assert "numpyro.handlers.mask" in message


def test_arguments_without_a_name():
    def model(x, /, *more):
        sample("y", dist.Normal(sample("mu", dist.Normal(0, 1)), 1), obs=x)

    message = raises(model, (1.0,), r"takes \(x, /, \*more\)", TypeError)
    assert "'x' can only be passed by position" in message
    assert "'more'" in message


def test_prints():
    text = repr(bbvi.analyze(rows, {"y": Y3}))
    assert text.startswith("Analysis of rows\n")
    assert "mu    latent    Normal        scalar  -" in text
    assert "observed  Normal        3       rows    mu" in text


def test_fingerprint_tells_models_apart():
    def other(y):
        mu = sample("mu", dist.Normal(0, 2))
        sample("y", dist.Normal(mu, 1), obs=y)

    first = bbvi.analyze(normal, {"y": Y3[0]}).fingerprint
    assert first == bbvi.analyze(normal, {"y": Y3[1]}).fingerprint
    assert first != bbvi.analyze(other, {"y": Y3[0]}).fingerprint


@pytest.mark.parametrize("what", ["analyze", "plan"])
def test_nothing_compiles(what):
    for model, data in (
        (rows, {"y": Y3}),
        (nested, {"y": np.zeros((2, 3), np.float32)}),
    ):
        getattr(bbvi, what)(model, data)
    # Other sizes than those that warmed up what JAX does outside of jit.
    with count_compiles() as count:
        getattr(bbvi, what)(rows, {"y": Y3 + 1})
    assert count.compiled == []


# --- bad input -----------------------------------------------------------------------


def raises(model, data, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        bbvi.analyze(model, data)
    return str(caught.value)


def test_model_must_be_a_function():
    raises("model", {}, r"model must be a function.*found str", TypeError)


def test_missing_and_unexpected_arguments_in_one_error():
    def model(x, y):
        sample("mu", dist.Normal(0, 1))

    message = raises(model, {"x": Y3, "w": 1}, "argument 'y' is missing", TypeError)
    assert "data has 'w', which the model does not take" in message
    assert "the model takes (x, y)" in message


def test_column_missing_from_a_frame():
    raises(rows, pd.DataFrame({"x": Y3}), "argument 'y' is missing", TypeError)


def test_too_many_positional_arguments():
    raises(normal, (Y3, Y3), "cannot take 2 positional arguments", TypeError)


def test_data_of_a_wrong_type():
    raises(normal, Y3, r"data must be a mapping.*found ndarray", TypeError)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    y = Y3.copy()
    y[1] = value
    message = raises(rows, {"y": y}, r"argument 'y' has 1 values that are NaN or inf")
    assert "first at index (1,)" in message
    assert "numpyro.handlers.mask" in message


def test_strings_in_data():
    raises(rows, {"y": np.array(["a", "b", "c"])}, r"'y' has dtype <U1: pass numbers")


LISTS = {
    "ragged": (
        [[1.0], [2.0, 3.0]],
        "rows that differ in length: pad them, with a mask",
    ),
    "None": (
        [1.0, None, 2.0],
        "None among its numbers: put a number there, with a mask",
    ),
    "text": ([1.0, "b", 2.0], "str among its numbers: put a number there"),
    "complex": ([1.0, 1j, 2.0], "complex numbers: pass their real and imaginary parts"),
    "too long": ([2**80, 1, 2], "integers of more than 64 bits: pass floats"),
}


@pytest.mark.parametrize("case", LISTS)
@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: {"rows": y, "names": ["a"]}])
def test_lists_of_numbers_that_are_no_array(case, wrap):
    y, problem = LISTS[case]
    with count_compiles() as count:
        message = raises(rows, {"y": wrap(y)}, "the data cannot be used")
    assert f"argument 'y' is a list that has {problem}" in message
    assert "or pass a tuple, whose values the model sees as they are" in message
    assert count.compiles == 0


def test_tuples_and_lists_of_names_are_seen_as_they_are():
    def model(groups, names, parents):
        assert parents == (None, 0)
        for name, group in zip(names, groups, strict=True):
            mu = sample(f"mu_{name}", dist.Normal(0, 1))
            for i, y in enumerate(group):
                sample(f"y_{name}{i}", dist.Normal(mu, 1), obs=y)

    data = {"groups": ((1.0,), (2.0, 3.0)), "names": ["a", "b"], "parents": (None, 0)}
    found = bbvi.analyze(model, data)
    assert list(found.latents) == ["mu_a", "mu_b"]
    assert list(found.of_kind("observed")) == ["y_a0", "y_b0", "y_b1"]


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_complex_arrays(make):
    y = make(Y3 + 1j * Y3)
    message = raises(rows, {"y": y}, "argument 'y' has dtype complex")
    assert message.endswith(": pass real and imaginary parts")


@pytest.mark.parametrize("value", [(0.1, 0.2, 0.3), ["a", "b", "c"], "abc", range(3)])
def test_observations_that_are_no_numbers(value):
    kind = type(value).__name__
    message = raises(rows, {"y": value}, f"observed site 'y' is given a {kind} that is")
    assert message.endswith("no array: pass an array or a list of numbers")


def test_observations_that_the_model_makes_complex():
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        sample("y", dist.Normal(mu, 1), obs=jnp.fft.fft(y))

    raises(model, {"y": Y3}, "observed site 'y' is given complex numbers: pass real")


@pytest.mark.parametrize(
    ("value", "dtype"), [(2**40, "int32"), (-(2**31) - 1, "int32"), (1e300, "float32")]
)
def test_numbers_that_do_not_fit_into_the_programs_are_not_wrapped(value, dtype):
    y = np.array([1, 2, value])
    message = raises(rows, {"y": y}, f"'y' has 1 values that {dtype} cannot hold")
    assert "the first at index (2,): change its units or offset" in message
    assert "jax.config.update('jax_enable_x64', True)" in message
    assert bbvi.analyze(rows, {"y": np.array([1, 2, 2**31 - 1])})


def test_all_bad_arrays_in_one_error():
    def model(x, y):
        sample("mu", dist.Normal(0, 1))

    bad = np.array([np.nan, 1.0])
    message = raises(model, {"x": bad, "y": bad}, "argument 'x'")
    assert "argument 'y'" in message


def test_tracers_are_refused():
    def inside(y):
        bbvi.analyze(normal, {"y": y})

    with pytest.raises(ValueError, match=r"'y' is a JAX tracer: call outside of jit"):
        jax.jit(inside)(0.3)


def test_plate_and_data_of_different_sizes():
    message = raises(rows, {"y": np.zeros(5, np.float32)}, r"'y'.*\(5,\)")
    assert "(3,)" in message
    assert "plate 'rows' of size 3" in message


def test_column_vector_against_plate():
    message = raises(rows, {"y": np.zeros((3, 1), np.float32)}, r"'y'.*\(3, 1\)")
    assert "give data and plates the same size" in message


def test_column_vector_against_row():
    def model(x, y):
        mu = sample("mu", dist.Normal(0, 1))
        sample("y", dist.Normal(mu * x, 1), obs=y)

    raises(model, {"x": Y3, "y": Y3[:, None]}, r"'y' has data of shape \(3, 1\)")
    raises(model, {"x": Y3[:, None], "y": Y3}, r"'y' has data of shape \(3,\)")


def test_shapes_that_do_not_fit():
    def model(x, y):
        mu = sample("mu", dist.Normal(0, 1).expand([2]))
        sample("y", dist.Normal(x @ mu, 1), obs=y)

    message = raises(
        model, {"x": np.zeros((3, 5)), "y": Y3}, "cannot be run with arrays"
    )
    assert "'x': (3, 5)" in message
    assert "at line" in message


def test_a_distribution_that_does_not_fit_into_its_plate():
    def model(x):
        with numpyro.plate("rows", 3):
            mu = sample("mu", dist.Normal(x, 1))
        sample("y", dist.Normal(mu, 1), obs=0.0)

    message = raises(model, {"x": np.zeros(5)}, r"arrays of shapes \{'x': \(5,\)\}")
    assert ", plate 'rows', site 'mu': ValueError" in message


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_scale_of_a_plate_that_scan_hides(is_inside):
    def model(y):
        plate = nullcontext() if is_inside else numpyro.plate("rows", 6, 3)

        def step(carry, y):
            with numpyro.plate("rows", 6, 3) if is_inside else plate as index:
                z = sample("z", dist.Bernoulli(0.3))
                sample("y", dist.Normal(1.0 * z, 1), obs=y[index])
            return carry, None

        scan(step, 0.0, y)

    data = {"y": np.ones((4, 6), np.float32)}
    if is_inside:
        raises(model, data, "site 'z'.*scaled in plate 'rows'.*make the plate before")
    else:
        assert bbvi.analyze(model, data).plate_scale("z") == 2


def test_a_plate_without_elements():
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", len(y)):
            sample("y", dist.Normal(mu, 1), obs=y)

    raises(model, {"y": np.zeros(0)}, "plate 'rows'.*size of plate should be positive")


@pytest.mark.parametrize(
    ("distribution", "value", "named"),
    [
        (lambda mu: dist.Exponential(jnp.exp(mu)), -1.0, "Exponential"),
        (lambda mu: dist.Poisson(jnp.exp(mu)), 1.5, "Poisson"),
        (lambda mu: dist.Poisson(jnp.exp(mu)), -2, "Poisson"),
        (lambda mu: dist.Bernoulli(logits=mu), 2, "Bernoulli"),
        (lambda mu: dist.Beta(jnp.exp(mu), 1.0), 1.5, "Beta"),
    ],
)
def test_observation_outside_support(distribution, value, named):
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        sample("y", distribution(mu).expand([2]), obs=y)

    message = raises(model, {"y": np.array([1, value])}, "'y' has [12] values outside")
    assert named in message
    if value != 1.5 or named != "Beta":
        assert f"first is {value} at index (1,)" in message


def test_derived_observation_outside_support():
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        sample("y", dist.Exponential(jnp.exp(mu)), obs=y - 1)

    raises(model, {"y": Y3}, "'y' has values outside the support")
    bbvi.analyze(model, {"y": Y3 + 2})


@pytest.mark.parametrize("place", range(5))
def test_observation_outside_support_in_a_minibatch(place):
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 5, subsample_size=1) as index:
            sample("y", dist.Exponential(jnp.exp(mu)), obs=y[index])

    y = np.ones(5, np.float32)
    bbvi.analyze(model, {"y": y})
    y[place] = -1
    raises(model, {"y": y}, "'y' has values outside the support")


def test_host_minibatch_is_checked_as_it_is():
    """The plate is subsampled, and the data are the minibatch itself."""

    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 5, subsample_size=3):
            sample("y", dist.Exponential(jnp.exp(mu)), obs=2 * y)

    bbvi.analyze(model, {"y": Y3**2})
    raises(model, {"y": Y3}, "'y' has values outside the support")


def test_masked_observations_may_lie_outside():
    def model(y, seen):
        mu = sample("mu", dist.Normal(0, 1))
        with handlers.mask(mask=seen):
            sample("y", dist.Exponential(jnp.exp(mu)).expand([3]), obs=y)

    bbvi.analyze(model, {"y": Y3, "seen": Y3 > 0})


def test_branch_on_a_latent():
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        if mu > 0:
            mu = 2 * mu
        sample("y", dist.Normal(mu, 1), obs=y)

    message = raises(model, {"y": 0.3}, r"uses the value of a latent")
    assert "if mu > 0:" in message
    assert "jnp.where" in message
    assert "jax.lax.cond" in message


def test_numpy_call_on_a_latent():
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        sample("y", dist.Normal(np.exp(mu), 1), obs=y)

    raises(model, {"y": 0.3}, r"np\.exp\(mu\)")


def test_range_of_a_data_scalar():
    def model(n, y):
        mu = sample("mu", dist.Normal(0, 1))
        for t in range(n):
            sample(f"y{t}", dist.Normal(mu, 1), obs=y[t])

    bbvi.analyze(model, {"n": 3, "y": Y3})
    message = raises(model, {"n": np.int64(3), "y": Y3}, r"range\(n\)")
    assert "pass sizes as ints" in message


def test_no_latent():
    def model(y):
        sample("y", dist.Normal(0, 1), obs=y)

    raises(model, {"y": 0.3}, "no latent site")


def test_names_used_twice():
    def model():
        sample("mu", dist.Normal(0, 1))
        sample("mu", dist.Normal(0, 1))

    raises(model, {}, "(?s)'?mu'?.*rename one site")


def test_delta_latent():
    def model(y):
        mu = sample("mu", dist.Delta(0.5))
        sample("y", dist.Normal(mu, sample("s", dist.Gamma(2.0, 1.0))), obs=y)

    raises(model, {"y": 0.3}, "'mu'.*point mass: write numpyro.deterministic")


def test_mask_below_events():
    def model(y):
        base = dist.Normal(0, 1).expand([3]).mask(np.array([True, False, True]))
        z = sample("z", base.to_event(1))
        sample("y", dist.Normal(z, 1), obs=y)

    raises(model, {"y": Y3}, "'z'.*mask below to_event.*numpyro.handlers.mask")


def test_errors_of_the_model_are_passed_on():
    def model(y):
        sample("mu", dist.Normal(0, 1))
        raise KeyError("my own")

    message = raises(model, {"y": 0.3}, "model cannot be run")
    assert "KeyError: 'my own'" in message


def test_all_problems_in_one_error():
    def model(y, count):
        mu = sample("mu", dist.Delta(0.5))
        with numpyro.plate("rows", 3):
            sample("y", dist.Normal(mu, 1), obs=y)
        sample("count", dist.Poisson(2.0), obs=count)

    data = {"y": np.zeros((3, 1), np.float32), "count": np.array(-1)}
    message = raises(model, data, "model cannot be fitted")
    assert message.count("\n  - ") == 3
    for name in ("'mu'", "'y'", "'count'"):
        assert name in message


def test_unknown_bounds_of_parameters():
    """A constraint that moves with the data cannot be kept apart from them."""

    def model(y):
        top = numpyro.param("top", 1.0, constraint=constraints.interval(0.0, y.max()))
        mu = sample("mu", dist.Normal(top, 1))
        sample("y", dist.Normal(mu, 1), obs=y)

    message = raises(model, {"y": Y3}, "'top'")
    assert "constraint" in message


def test_the_density_of_zeros_and_ones_is_numpyros_at_every_logit():
    logits = jnp.array([-jnp.inf, -200.0, -3.0, 0.0, 2.0, 200.0, jnp.inf])
    bernoulli = partial(dist.Bernoulli, validate_args=False)
    for value in (jnp.zeros(7), jnp.ones(7), jnp.zeros(7, int), jnp.ones(7, int)):
        site = {"value": value, "intermediates": [], "is_observed": True}

        def ours(logits, site=site):
            return tracing.log_density(site | {"fn": bernoulli(logits=logits)})

        def numpyros(logits, value=value):
            return bernoulli(logits=logits).log_prob(value)

        np.testing.assert_allclose(ours(logits), numpyros(logits), rtol=1e-6)
        slope = jax.grad(lambda x: ours(x).sum())(logits)
        exact = value - jax.nn.sigmoid(logits)
        np.testing.assert_allclose(slope[1:-1], exact[1:-1], atol=1e-6)
        assert np.isfinite(slope).all()
        curvature = jax.grad(lambda x, f=ours: jax.grad(lambda t: f(t).sum())(x).sum())
        exact = -jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)
        np.testing.assert_allclose(curvature(logits), exact, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("wrap", [lambda d: d.to_event(1), lambda d: d.expand([2, 3])])
def test_a_value_that_is_no_bit_is_not_taken_for_one(wrap):
    site = {"intermediates": [], "is_observed": True}
    fn = wrap(dist.Bernoulli(logits=jnp.zeros(3)))
    found = tracing.log_density(site | {"value": jnp.array([0.0, 2.0, 1.0]), "fn": fn})
    np.testing.assert_array_equal(np.isnan(found[..., 1]), True)
    assert np.isfinite(found[..., [0, 2]]).all()


def test_below_a_mask_any_value_is_hidden_from_the_gradient():
    fill = jnp.array([0.0, -1.0, 5.0])

    def total(logits):
        fn = dist.Bernoulli(logits=logits).mask(jnp.array([True, False, False]))
        site = {"intermediates": [], "is_observed": True, "value": fill, "fn": fn}
        return tracing.log_density(site).sum()

    slope = jax.grad(total)(jnp.full(3, 1.0))
    np.testing.assert_allclose(slope, [-jax.nn.sigmoid(1.0), 0.0, 0.0], rtol=1e-6)


def test_a_relaxed_value_keeps_the_density_that_is_linear_in_it():
    site = {"fn": dist.Bernoulli(logits=2.0), "intermediates": [], "is_observed": False}
    slope = jax.grad(lambda z: tracing.log_density(site | {"value": z}))(1.0)
    assert slope == 2.0
