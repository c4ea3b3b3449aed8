"""The command line: what it prints, writes and returns."""

import json
import pathlib
import subprocess
import sys

import arviz
import numpy as np
import pytest

from bbvi.cli import main

ROOT = pathlib.Path(__file__).parent.parent
FILE = """
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)


def coin(y):
    z = numpyro.sample("z", dist.Categorical(np.array([0.2, 0.5, 0.3])))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu + 1.0 * z, 1.0), obs=y)


def data():
    x = np.arange(5.0)
    return {"x": x, "y": 1.0 + 0.5 * x + np.array([0.3, -0.2, 0.1, 0.4, -0.5])}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "line.py"
    path.write_text(FILE)
    return str(path)


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = main(arguments)
    return status, *capsys.readouterr()


def test_plan_prints_the_plan_and_fits_nothing(file, capsys, tmp_path):
    status, out, err = run(capsys, "plan", file)
    assert (status, err) == (0, "")
    assert out.startswith("Plan for ")
    assert "FullRank()" in out
    assert "Reparameterized()" in out
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".nc"] == []


@pytest.mark.parametrize(
    ("name", "family"), [("mean-field", "MeanField()"), ("full-rank", "FullRank()")]
)
def test_plan_with_a_family_named(file, capsys, name, family):
    status, out, _ = run(capsys, "plan", file, "--guide", name)
    assert status == 0
    assert f"guide      {family}: as given" in out


def test_fit_writes_what_arviz_reads(file, capsys, tmp_path):
    status, out, err = run(capsys, "fit", file, "--quiet")
    assert (status, err) == (0, "")
    for part in ("Plan for ", "mean", "verdict  Trust", "written  line.nc"):
        assert part in out
    tree = arviz.from_netcdf(tmp_path / "line.nc")
    assert tree["posterior"]["a"].dims == ("chain", "draw")
    assert tree["posterior_predictive"]["y"].shape[-1] == 5
    assert tree["observed_data"]["y"].shape == (5,)
    assert tree.attrs["verdict"].startswith("Trust")
    a = tree["posterior"]["a"].to_numpy()
    x, y = np.arange(5.0), tree["observed_data"]["y"].to_numpy()
    design = np.stack([np.ones(5), x], 1)
    exact = np.linalg.solve(design.T @ design + np.eye(2) / 4, design.T @ y)
    assert a.mean() == pytest.approx(exact[0], abs=0.15)


def test_same_seed_writes_the_same_draws(file, capsys, tmp_path):
    def draws(seed, output):
        run(capsys, "fit", file, "--quiet", "--seed", seed, "--output", output)
        return arviz.from_netcdf(tmp_path / output)["posterior"]["a"].to_numpy()

    first = draws("3", "one.nc")
    np.testing.assert_array_equal(first, draws("3", "two.nc"))
    assert not np.array_equal(first, draws("4", "three.nc"))


def test_progress_is_shown_on_standard_error(file, capsys):
    status, out, err = run(capsys, "fit", file)
    assert status == 0
    assert "Converged" in err
    assert "bbvi:" not in out


def test_a_fit_that_may_not_be_used_returns_1(file, capsys, tmp_path):
    status, out, _ = run(capsys, "fit", file, "--quiet", "--max-steps", "2")
    assert status == 1
    assert "Not converged" in out
    assert "Do not trust" in out
    assert (tmp_path / "line.nc").exists()


def test_time_limit_is_passed_on(file, capsys):
    status, out, _ = run(capsys, "fit", file, "--quiet", "--max-seconds", "0.001")
    assert status == 1
    assert "Raise max_seconds" in out


def test_another_model_of_the_file_with_json(file, capsys, tmp_path):
    pathlib.Path("given.json").write_text(json.dumps({"y": 2.5}))
    status, out, _ = run(
        capsys, "fit", f"{file}:coin", "--data", "given.json", "--quiet"
    )
    assert status == 0
    assert "z, its 3 likeliest values" in out
    assert "mode" in out
    posterior = arviz.from_netcdf(tmp_path / "line.nc")["posterior"]
    assert posterior["z"].dtype.kind == "i"


def test_csv_columns_are_the_arguments(file, capsys, tmp_path):
    pathlib.Path("given.csv").write_text("x,y\n0,1.5\n1,2\n2,2.5\n")
    status, _, _ = run(capsys, "fit", file, "--data", "given.csv", "--quiet")
    assert status == 0
    tree = arviz.from_netcdf(tmp_path / "line.nc")
    np.testing.assert_array_equal(tree["observed_data"]["y"], [1.5, 2, 2.5])
    np.testing.assert_array_equal(tree["constant_data"]["x"], [0, 1, 2])


def test_guide_of_the_file_is_used(file, capsys):
    text = FILE + (
        "\ndef guide(x, y=None):\n"
        '    numpyro.sample("a", dist.Normal(numpyro.param("loc", 0.0), 0.5))\n'
        '    numpyro.sample("b", dist.Normal(numpyro.param("slope", 0.0), 0.2))\n'
    )
    pathlib.Path(file).write_text(text)
    status, out, _ = run(capsys, "plan", file)
    assert status == 0
    assert "Custom(" in out


WRONG = {
    "no file": (["plan", "gone.py"], "there is no file 'gone.py'"),
    "no model": (["plan", "line.py:other"], "line.py has no function 'other'"),
    "data for a model of other arguments": (
        ["plan", "line.py:coin"],
        "data has 'x', which the model does not take",
    ),
    "no such data": (
        ["plan", "line.py", "--data", "gone.json"],
        "No such file or directory: 'gone.json'",
    ),
    "neither json nor csv": (
        ["plan", "line.py", "--data", "data.txt"],
        "must be a .json or .csv file; found 'data.txt'",
    ),
    "broken json": (["plan", "line.py", "--data", "bad.json"], "bad.json"),
    "json list": (["plan", "line.py", "--data", "list.json"], "must be a mapping"),
    "words in csv": (
        ["plan", "line.py", "--data", "words.csv"],
        "words.csv must have a header and rows of numbers",
    ),
    "empty csv": (
        ["plan", "line.py", "--data", "empty.csv"],
        "empty.csv must have a header and rows of numbers",
    ),
    "ragged csv": (
        ["plan", "line.py", "--data", "ragged.csv"],
        "ragged.csv must have a header and rows of numbers",
    ),
    "missing column": (
        ["plan", "line.py", "--data", "y.csv"],
        "argument 'x' is missing from data",
    ),
    "no steps": (["fit", "line.py", "--max-steps", "0"], "max_steps must be at least"),
    "no data()": (["plan", "bare.py"], "bare.py has no function 'data'"),
    "no directory": (
        ["fit", "line.py", "--quiet", "--output", "gone/fit.nc"],
        "gone",
    ),
}
FILES = {
    "data.txt": "1",
    "bad.json": "{",
    "list.json": "[1, 2]",
    "words.csv": "x,y\n1,two\n",
    "empty.csv": "x,y\n",
    "ragged.csv": "x,y\n1,2\n3\n",
    "y.csv": "y\n1\n2\n",
    "bare.py": FILE[: FILE.index("def data")],
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_named_and_returns_2(file, capsys, case):
    arguments, message = WRONG[case]
    for name, text in FILES.items():
        pathlib.Path(name).write_text(text)
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.startswith("bbvi: ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [[], ["fit"], ["guess", "line.py"], ["fit", "line.py", "--guide", "x"]]
)
def test_bad_usage_returns_2(file, capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: bbvi" in capsys.readouterr().err


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    out = capsys.readouterr().out
    assert "plan" in out
    assert "fit" in out


def test_module_runs_as_a_program(file, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bbvi", "fit", file, "--quiet"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "written  line.nc" in done.stdout
    assert (tmp_path / "line.nc").exists()
