"""The tables of `docs/choosing.md`, made from the preference lists.

`python -m tests.choosing` writes them; a test fails while they differ.
"""

import inspect
import pathlib
import re

from bbvi.choosing import CONTROLS, PREFERENCE

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs/choosing.md"
TABLES = {"estimators": PREFERENCE, "control variates": CONTROLS}


def row(number, option):
    """One line: its place, the call, what it does, and whose it is."""
    text = inspect.getdoc(type(option))
    summary = text.partition("\n")[0].rstrip(".")
    sources = re.search(r"References:\n(.*?)(?:\n\n|\Z)", text, re.S)[1]
    name = r"(?:van )?[A-Z][\w-]+"
    source = rf"{name}(?:, {name})*(?: and {name}| et al\.)? \(\d{{4}}\)"
    found = re.findall(source, " ".join(sources.split()))
    return f"| {number} | `{option!r}` | {summary} | {'; '.join(found)} |"


def table(options):
    """A table in the order of preference."""
    rows = [row(number, option) for number, option in enumerate(options, 1)]
    return "\n".join(["| | | what it does | source |", "|---|---|---|---|", *rows])


def rendered(text):
    """The page with its tables made anew."""
    for name, options in TABLES.items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        assert tail, f"{DOCUMENT.name} has no place for the table of {name}"
        text = f"{head}{begin}\n{table(options)}\n{end}{tail}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text("utf-8")), "utf-8")
