"""The examples run, and the reference and the tour show what is there."""

import importlib
import pathlib
import re

import numpy as np
import pytest

import bbvi
from tests.test_docs import blocks

ROOT = pathlib.Path(__file__).parent.parent
ARGUMENTS = {
    "change_point": {"num_steps": 300},
    "hard_attention": {"num_steps": 400, "num_rows": 128},
    "minibatch": {"num_steps": 200, "num_rows": 300},
    "mixture": {"num_steps": 300, "num_rows": 50},
    "own_loop": {"num_steps": 200},
    "policy_gradient": {"num_steps": 200, "num_draws": 4_000},
    "rewards": {"num_steps": 100, "num_draws": 2_000},
    "two_gradients": {"num_draws": 2_000},
}
PUBLIC = [bbvi, bbvi.guides, bbvi.estimators]
SHOWN = re.compile(r"<!-- printed: (\w+) -->\n```text\n(.*?)\n```", re.DOTALL)


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_example_is_run():
    found = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert found == set(ARGUMENTS)


@pytest.fixture(scope="module")
def outcome():
    """What the examples return, each run once."""
    found = {}

    def of(name):
        if name not in found:
            example = importlib.import_module(f"examples.{name}")
            found[name] = example.main(**ARGUMENTS[name])
        return found[name]

    return of


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs(name, outcome):
    assert outcome(name) is not None


def test_gradients_of_the_table_of_rewards(outcome):
    found, _, value = outcome("rewards")
    np.testing.assert_allclose(found["exact sum"], [[2.5, -2.5]] * 2_000, rtol=1e-5)
    noisy = np.asarray(found["score, one draw"])
    error = 5 * noisy.std(0) / np.sqrt(len(noisy))
    assert np.all(np.abs(noisy.mean(0) - [2.5, -2.5]) < error)
    assert found["score, four draws"].std() < noisy.std()
    assert value > 9


def test_a_fast_cost_turns_the_tables(outcome):
    found, _ = outcome("two_gradients")
    path, score = (found[name][1] for name in ("pathwise", "score"))
    assert path[0] < score[0] / 100
    assert path[-1] > 3 * score[-1]


def test_both_policy_gradients_are_exact_and_the_advantage_is_quieter(outcome):
    found, exact, (before, after) = outcome("policy_gradient")
    for draws in found.values():
        error = np.asarray(draws.std(0)) / np.sqrt(len(draws))
        assert np.all(np.abs(draws.mean(0) - exact) < 5 * error + 1e-6)
    variance = {name: float(draws.var(0).sum()) for name, draws in found.items()}
    assert variance["advantage"] < 0.9 * variance["return"]
    assert after > before + 2


def test_attention_finds_the_marker(outcome):
    assert min(outcome("hard_attention").values()) > 0.9


def test_both_mixtures_have_one_bound(outcome):
    """The sites that bbvi sums out are those that the second model sums by hand."""
    first, second = outcome("mixture")
    error = 5 * (first.elbo.mcse + second.elbo.mcse)
    assert abs(first.elbo.value - second.elbo.value) < error


def test_counts_of_the_change_point_are_those_of_the_zoo():
    example = importlib.import_module("examples.change_point")
    zoo = importlib.import_module("models.coal_mining").data()
    assert all((zoo[name] == values).all() for name, values in example.data().items())


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_name_stands_in_the_reference(module):
    rows = [line for line in page("reference.md").splitlines() if line[:3] == "| `"]
    listed = {name for row in rows for name in re.findall(r"`(\w+)", row.split("|")[1])}
    assert set(module.__all__) <= listed


def test_every_public_name_of_a_fit_stands_in_the_reference():
    public = {name for name in vars(bbvi.Fit) if name[0] != "_"} - {"live", "stored"}
    fields = {"status", "verdict", "params", "history", "elbo", "weights"}
    section = page("reference.md").split("## `Fit`")[1].split("\n## ")[0]
    missing = [n for n in public | fields if f"`{n}`" not in section]
    assert not [n for n in missing if f"`{n}(" not in section]


def test_the_tour_shows_what_is_printed(tmp_path, monkeypatch):
    """Word for word; numbers may differ from machine to machine."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for _, code in blocks(page("tour.md")):
        if not code.startswith(">>>"):
            exec(code, namespace)
    shown = SHOWN.findall(page("tour.md"))
    assert [name for name, _ in shown] == ["analysis", "plan", "fit"]
    for name, text in shown:
        assert without_numbers(text) == without_numbers(str(namespace[name]))


def without_numbers(text):
    return re.sub(r"-?\d+(\.\d+)?", "#", text)


def test_pages_link_to_what_is_there():
    for path in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
