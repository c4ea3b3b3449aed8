"""Draws reach ArviZ, whichever of its two generations is installed."""

import subprocess
import sys

import arviz
import numpy as np
import pytest

from bbvi.export import summary, to_arviz, to_netcdf

IS_0 = arviz.__version__.startswith("0.")
NUM_DRAWS = 200


@pytest.fixture
def groups():
    rng = np.random.default_rng(0)
    y = rng.normal(size=3)
    mu = rng.normal(size=NUM_DRAWS).astype(np.float32)
    return {
        "posterior": {
            "mu": mu,
            "b": rng.normal(size=(NUM_DRAWS, 5, 2)),
            "z": rng.integers(0, 3, size=(NUM_DRAWS, 3)).astype(np.int32),
            "on": rng.uniform(size=NUM_DRAWS) < 0.9,
            "empty": np.zeros((NUM_DRAWS, 0)),
        },
        "dims": {"b": ["group", None], "z": ["row"], "y": ["row"], "empty": ["none"]},
        "coords": {"group": ["a", "b", "c", "d", "e"]},
        "sample_stats": {"log_p": -(mu**2), "log_q": -(mu**2) / 2},
        "log_likelihood": {"y": -((y - mu[:, None]) ** 2) / 2},
        "posterior_predictive": {"y": rng.normal(size=(NUM_DRAWS, 3))},
        "prior": {"mu": rng.normal(size=50)},
        "observed_data": {"y": y},
        "constant_data": {"x": np.arange(3), "scale": 2.0},
        "attrs": {"verdict": "trust", "khat": np.float32(0.5), "ok": True, "no": None},
    }


@pytest.fixture
def tree(groups):
    return to_arviz(**groups)


def group_names(tree):
    return {name.strip("/") for name in tree.groups()} if IS_0 else set(tree.children)


def test_container_is_the_one_of_the_installed_arviz(tree):
    assert type(tree).__name__ == ("InferenceData" if IS_0 else "DataTree")


def test_every_group_is_there_and_no_other(groups, tree):
    assert group_names(tree) == set(groups) - {"dims", "coords", "attrs"}
    assert group_names(to_arviz({"mu": np.zeros(4)}, dims={})) == {"posterior"}


def test_dims_have_the_names_given(tree):
    posterior = tree["posterior"]
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["mu"].shape == (1, NUM_DRAWS)
    assert posterior["b"].dims == ("chain", "draw", "group", "b_dim_1")
    assert posterior["z"].dims == ("chain", "draw", "row")
    assert posterior["empty"].shape == (1, NUM_DRAWS, 0)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "row")
    assert tree["observed_data"]["y"].dims == ("row",)
    assert tree["constant_data"]["x"].dims == ("x_dim_0",)
    assert tree["constant_data"]["scale"].size == 1
    assert tree["prior"]["mu"].shape == (1, 50)


def test_log_likelihood_lacks_the_event_axes_of_its_site():
    tree = to_arviz(
        {"mu": np.zeros(4)},
        dims={"y": ["row", "place"]},
        log_likelihood={"y": np.zeros((4, 3))},
        observed_data={"y": np.zeros((3, 2))},
    )
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert tree["observed_data"]["y"].dims == ("row", "place")


def test_coords_label_their_dimension_only_where_it_is(tree):
    b = tree["posterior"]["b"].sel(group="c")
    np.testing.assert_array_equal(b[0], tree["posterior"]["b"][0, :, 2])
    assert "group" not in tree["observed_data"].coords


@pytest.mark.parametrize("site", ["mu", "z", "on"])
def test_draws_keep_their_values_and_dtype(groups, tree, site):
    found = tree["posterior"][site].to_numpy()[0]
    assert found.dtype == groups["posterior"][site].dtype
    np.testing.assert_array_equal(found, groups["posterior"][site])


def test_attrs_say_where_the_draws_come_from(tree):
    for attrs in (tree.attrs, tree["posterior"].attrs):
        assert attrs["inference_library"] == "bbvi"
        assert isinstance(attrs["inference_library_version"], str)
        assert attrs["verdict"] == "trust"
        assert attrs["khat"] == 0.5
        assert attrs["ok"] == "True"
        assert attrs["no"] == "None"


def test_netcdf_round_trip_keeps_everything(tree, tmp_path):
    path = tmp_path / "fit.nc"
    to_netcdf(tree, path)
    back = arviz.from_netcdf(path)
    assert group_names(back) == group_names(tree)
    for group in group_names(tree):
        for site, array in tree[group].data_vars.items():
            found = back[group][site]
            assert found.dims == array.dims
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    assert back["posterior"].attrs["verdict"] == "trust"
    assert list(back["posterior"]["group"].to_numpy()) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("name", ["chain", "draw"])
def test_plate_named_like_a_sample_dimension_is_renamed(name):
    b = np.arange(8.0).reshape(4, 2)
    tree = to_arviz({"b": b}, dims={"b": [name]}, coords={name: ["u", "v"]})
    assert tree["posterior"]["b"].dims == ("chain", "draw", f"{name}_")
    selected = tree["posterior"]["b"].sel({f"{name}_": "v"})
    np.testing.assert_array_equal(selected[0], b[:, 1])


def test_argument_named_like_a_plate_is_exported():
    tree = to_arviz(
        {"b": np.zeros((4, 2))},
        dims={"b": ["group"]},
        coords={"group": ["u", "v"]},
        constant_data={"group": np.array([0, 1, 1])},
    )
    np.testing.assert_array_equal(tree["constant_data"]["group"], [0, 1, 1])


WRONG = {
    "draws of two lengths": (
        {"posterior": {"a": np.zeros(4), "b": np.zeros(5)}, "dims": {}},
        "group 'posterior': .* leading axis of draws.*'b' \\(5,\\)",
    ),
    "no draws": (
        {"posterior": {"a": np.zeros(())}, "dims": {}},
        "group 'posterior': .* leading axis of draws",
    ),
    "too many names": (
        {"posterior": {"a": np.zeros(4)}, "dims": {"a": ["row"]}},
        "site 'a': expected a name for each axis at most",
    ),
    "two sizes": (
        {
            "posterior": {"a": np.zeros((4, 2)), "b": np.zeros((4, 3))},
            "dims": {"a": ["row"], "b": ["row"]},
        },
        "site 'b': expected size 2 along dimension 'row', as in site 'a'; found 3",
    ),
    "coords of another size": (
        {
            "posterior": {"a": np.zeros((4, 2))},
            "dims": {"a": ["row"]},
            "coords": {"row": [1]},
        },
        "expected size 1 along dimension 'row', as in coords; found 2.*mend coords",
    ),
    "one name twice": (
        {"posterior": {"a": np.zeros((4, 2, 2))}, "dims": {"a": ["row", "row"]}},
        "site 'a': expected dimensions named apart",
    ),
    "named like a site": (
        {"posterior": {"a": np.zeros((4, 2))}, "dims": {"a": ["a"]}},
        "site 'a': expected dimensions named apart",
    ),
    "unknown site": (
        {"posterior": {"a": np.zeros((4, 2))}, "dims": {"b": ["row"]}},
        "dims: expected a site of the fit, one of \\['a'\\]; found 'b'",
    ),
    "unknown dimension": (
        {
            "posterior": {"a": np.zeros((4, 2))},
            "dims": {"a": ["row"]},
            "coords": {"rows": [1, 2]},
        },
        "coords: expected a dimension of the fit, one of \\['row'\\]; found 'rows'",
    ),
}
NO_LISTS = {
    "dims as a list": ({"dims": ["a"]}, "dims must map names to lists.*'a'"),
    "dims of text": ({"dims": {"a": "row"}}, "dims\\['a'\\] must be a list.*'row'"),
    "coords as a list": (
        {"dims": {"a": ["row"]}, "coords": [1, 2]},
        "coords must map names to lists.*1, 2",
    ),
    "coords of a number": (
        {"dims": {"a": ["row"]}, "coords": {"row": 2}},
        "coords\\['row'\\] must be a list.*found 2",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_disagreement_is_refused_with_its_place(case):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        to_arviz(**arguments)


@pytest.mark.parametrize("case", NO_LISTS)
def test_names_that_are_no_lists_are_refused(case):
    arguments, message = NO_LISTS[case]
    with pytest.raises(TypeError, match=message):
        to_arviz({"a": np.zeros((4, 2))}, **arguments)


def test_all_disagreements_are_reported_at_once():
    with pytest.raises(ValueError, match="posterior") as raised:
        to_arviz(
            {"a": np.zeros(4), "b": np.zeros(5)},
            dims={"y": ["row", "column"]},
            observed_data={"y": np.zeros(3)},
        )
    assert "observed_data" in str(raised.value)


def test_summary_rows_and_columns(groups, tree):
    table = summary(tree)
    interval = ["hdi_3%", "hdi_97%"] if IS_0 else ["eti89_lb", "eti89_ub"]
    assert list(table.columns) == ["mean", "sd", *interval, "mode", "p(mode)"]
    assert "b[e, 1]" in table.index
    assert not any("empty" in row for row in table.index)
    assert len(table) == 1 + 10 + 3 + 1
    b = groups["posterior"]["b"]
    for i, label in enumerate("abcde"):
        row = table.loc[f"b[{label}, 1]"]
        assert row["mean"] == pytest.approx(b[:, i, 1].mean())
        assert row["sd"] == pytest.approx(b[:, i, 1].std(ddof=1), rel=0.01)
        assert row[interval[0]] < row["mean"] < row[interval[1]]


def test_summary_gives_the_mode_of_discrete_sites_only(groups, tree):
    table = summary(tree)
    z = groups["posterior"]["z"]
    for i in range(3):
        counts = np.bincount(z[:, i])
        assert table.loc[f"z[{i}]", "mode"] == counts.argmax()
        assert table.loc[f"z[{i}]", "p(mode)"] == counts.max() / NUM_DRAWS
    assert table.loc["on", "mode"] == 1
    assert table["mode"].isna().sum() == 11
    assert table["p(mode)"].isna().sum() == 11


def test_summary_of_chosen_sites_and_interval(tree):
    table = summary(tree, var_names=["b"], ci_prob=0.5)
    wide = summary(tree, var_names=["b"], ci_prob=0.9)
    assert len(table) == 10
    assert "mode" not in table
    assert np.all(np.ptp(table.iloc[:, 2:4], 1) < np.ptp(wide.iloc[:, 2:4], 1))
    with pytest.raises(ValueError, match=r"found \['c'\].*'mu'"):
        summary(tree, var_names=["c"])
    assert summary(tree, var_names=["empty"]).empty


@pytest.mark.skipif(IS_0, reason="ArviZ 0.x has no loo_approximate_posterior")
def test_arviz_computes_loo_from_the_stored_densities(tree):
    stats = tree["sample_stats"]
    loo = arviz.loo_approximate_posterior(tree, stats["log_p"], stats["log_q"])
    assert loo.n_samples == NUM_DRAWS
    assert loo.n_data_points == 3
    assert np.isfinite(loo.elpd)


def test_arviz_may_be_imported_first():
    """ArviZ 1.x leaves a lazy numpyro behind, which must not stay half loaded."""
    code = "import arviz, bbvi, numpyro; numpyro.distributions.distribution.Unit"
    subprocess.run([sys.executable, "-c", code], check=True)
