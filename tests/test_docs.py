"""What the documentation shows runs: its code blocks, and the docstrings' examples.

The ```python blocks of one page run in order, in one namespace and an empty directory;
with `>>>` prompts their output is compared too. A block is left out only by a comment
on the line before it that says why: `<!-- not run: needs two GPUs -->`.
"""

import doctest
import importlib
import pathlib
import re
import textwrap

import pytest

from tests import choosing

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted((ROOT / "bbvi").rglob("*.py"))
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

BLOCK = re.compile(
    r"(?:^[ ]*<!--[ ]*not[ ]run:(?P<reason>[^\n]*?)-->[ ]*\n\s*)?"
    r"^(?P<indent>[ ]*)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


def blocks(text):
    """Yield `(first line, code)` of every block to be run."""
    for match in BLOCK.finditer(text):
        reason = match["reason"]
        if reason is None:
            line = text.count("\n", 0, match.start("code"))
            yield line + 1, textwrap.dedent(match["code"])
        elif not reason.strip():
            raise ValueError("'not run' needs a reason: <!-- not run: reason -->")


def run_page(path, namespace):
    for line, code in blocks(path.read_text(encoding="utf-8")):
        if code.lstrip().startswith(">>>"):
            run_doctest(code, namespace, f"{path.name}:{line}", line)
        else:
            # Blank lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)


def run_doctest(code, namespace, name, line):
    test = doctest.DocTestParser().get_doctest(code, namespace, name, name, line - 1)
    doctest.DebugRunner(optionflags=FLAGS).run(test, clear_globs=False)
    namespace.update(test.globs)


def has_blocks(path):
    return any(True for _ in blocks(path.read_text(encoding="utf-8")))


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def has_examples(path):
    return ">>> " in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", [p for p in PAGES if has_blocks(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(path, {"__name__": "__main__"})


@pytest.mark.parametrize(
    "name", [dotted(path) for path in MODULES if has_examples(path)]
)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_readme_marks_the_two_commands():
    """`.ci/run` reads them from there and runs them as they stand."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = r"<!-- command: (\w+) -->\n```bash\n([^\n]+)\n```"
    assert dict(re.findall(marked, text)) == {
        "run": "pip install . && bbvi fit models/coal_mining.py",
        "test": 'pip install ".[test]" && pytest',
    }


def test_blocks_know_their_lines_and_reasons():
    page = (
        "text\n```python\na = 1\n```\n\n<!-- not run: needs a GPU -->\n```python\n1/0\n"
        "```\n- item\n\n  ```python\n  b = 2\n  ```\n```bash\nls\n```\n"
    )
    assert list(blocks(page)) == [(3, "a = 1\n"), (13, "b = 2\n")]
    with pytest.raises(ValueError, match="needs a reason"):
        list(blocks("<!-- not run: -->\n```python\n1/0\n```\n"))


def test_a_wrong_block_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\na = 1\n```\n```python\n>>> a + 1\n3\n```\n")
    with pytest.raises(doctest.DocTestFailure):
        run_page(page, {})
    page.write_text("```python\na = 1\n```\n```python\nassert a == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, {})


def test_choosing_shows_the_preference_lists():
    text = choosing.DOCUMENT.read_text(encoding="utf-8")
    assert text == choosing.rendered(text), "run python -m tests.choosing"


def test_explanations_name_tests_that_exist():
    """Whatever a page says is checked by a test is."""
    tests = "\n".join(p.read_text("utf-8") for p in ROOT.glob("tests/test_*.py"))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))
    }
    assert len(named) > 10
    absent = [name for name in sorted(named) if f"def {name}(" not in tests]
    assert not absent
