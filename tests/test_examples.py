"""The examples run, and the reference and the tour show what is there."""

import importlib
import pathlib
import re

import pytest

import bbvi
from tests.test_docs import blocks

ROOT = pathlib.Path(__file__).parent.parent
ARGUMENTS = {
    "change_point": {"num_steps": 300},
    "minibatch": {"num_steps": 200, "num_rows": 300},
    "mixture": {"num_steps": 300, "num_rows": 50},
    "own_loop": {"num_steps": 200},
}
PUBLIC = [bbvi, bbvi.guides, bbvi.estimators]
SHOWN = re.compile(r"<!-- printed: (\w+) -->\n```text\n(.*?)\n```", re.DOTALL)


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_example_is_run():
    found = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert found == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs(name):
    example = importlib.import_module(f"examples.{name}")
    assert example.main(**ARGUMENTS[name]) is not None


def test_both_mixtures_have_one_bound():
    """The sites that bbvi sums out are those that the second model sums by hand."""
    example = importlib.import_module("examples.mixture")
    first, second = example.main(**ARGUMENTS["mixture"])
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
