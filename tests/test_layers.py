"""The shape of the package: who may import whom, and how large a thing may grow.

A limit or an edge is changed here and nowhere else, in its own commit, with a reason.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "bbvi").rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

# The parts of the package, lowest first, each with what it may import besides itself.
_BASE = {"_types", "_keys", "_collector", "_counts"}
_NODES = _BASE | {"analysis", "guides", "estimators"}
_JOINT = _NODES | {"nodes"}
_CHOOSING = _JOINT | {"joint"}
_PLANNING = _CHOOSING | {"choosing", "families", "circular"}
_SURROGATES = _PLANNING | {"planning"}
_OBJECTIVE = _SURROGATES | {"surrogates"}
_DRAWING = _OBJECTIVE | {"objective"}
_SEARCHING = _DRAWING | {"drawing", "compiling", "optimize", "diagnostics"}
_PROGRAMS = _SEARCHING | {"searching"}
_RESULT = _PROGRAMS | {
    "programs",
    "covariance",
    "verdict",
    "saving",
    "export",
    "plots",
}
_WATCHING = _PLANNING | {"planning", "diagnostics", "optimize", "verdict", "result"}
_STARTING = _RESULT | {"result", "watching"}
_DRIVING = _STARTING | {"starting", "reach", "deterministic"}
_FITTING = _DRIVING | {"driving"}
_ALL = _FITTING | {"fitting", "loading", "elbo", "expectation", "piloting"}
MAY_IMPORT = {
    "_types": set(),
    "_collector": set(),
    "_counts": set(),
    "_keys": {"_types"},
    "analysis": _BASE,
    "diagnostics": _BASE,
    "optimize": _BASE | {"diagnostics"},
    "guides": _BASE | {"analysis"},
    "estimators": _BASE | {"analysis"},
    "compiling": {"analysis"},
    "nodes": _NODES,
    "joint": _JOINT,
    "circular": _CHOOSING,
    "choosing": _CHOOSING,
    "families": _BASE | {"analysis", "guides"},
    "planning": _PLANNING,
    "surrogates": _SURROGATES,
    "objective": _OBJECTIVE,
    "piloting": _DRAWING,
    "elbo": _DRAWING,
    "expectation": _DRAWING,
    "drawing": _DRAWING,
    "covariance": _DRAWING | {"drawing", "optimize"},
    "searching": _SEARCHING,
    "programs": _PROGRAMS,
    "saving": _BASE,
    "verdict": _BASE | {"diagnostics"},
    "export": _BASE | {"diagnostics"},
    "plots": _BASE | {"diagnostics"},
    "result": _RESULT,
    "watching": _WATCHING,
    "starting": _STARTING,
    "deterministic": _STARTING | {"starting"},
    "reach": _DRAWING | {"drawing"},
    "driving": _DRIVING,
    "fitting": _FITTING,
    "loading": _ALL - {"loading"},
    "cli": _ALL,
    "__init__": _ALL,
    "__main__": {"cli"},
}

# Packages that only some parts may know.
ONLY_IN = {
    "arviz": {"export", "plots"},
    "arviz_base": {"export", "plots"},
    "arviz_plots": {"plots"},
    "matplotlib": {"plots"},
    "optax": {"optimize", "programs", "fitting"},
    "jax.extend": {"analysis"},
}
MAY_PRINT = {"cli.py", "optimize/progress.py"}
# Optional packages, and parts that are only needed once asked for.
MAY_IMPORT_INSIDE_FUNCTIONS = {"export", "plots", "result", "cli", "programs"}

every_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda p: str(p.relative_to(ROOT / "bbvi"))
)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part(path):
    return path.relative_to(ROOT / "bbvi").parts[0].removesuffix(".py")


def imported(tree):
    """Yield every `(node, dotted name)` imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def begins(name, package):
    return f"{name}.".startswith(f"{package}.")


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def private(word):
    return word.startswith("_") and not word.endswith("__")


@every_file
def test_imports_go_downward(path):
    here = part(path)
    assert here in MAY_IMPORT, f"give bbvi/{here} its place in MAY_IMPORT"
    own = [name for _, name in imported(parse(path)) if begins(name, "bbvi")]
    others = {name.split(".")[1] for name in own if name != "bbvi"} - {here}
    assert "bbvi" not in own, "import the part, not the whole package"
    assert others <= MAY_IMPORT[here], f"{here} may not import what is not below it"


@every_file
def test_imports_stand_at_the_top(path):
    inside = [
        f"line {node.lineno}"
        for function in functions(parse(path))
        for node, _ in imported(function)
    ]
    assert not inside or part(path) in MAY_IMPORT_INSIDE_FUNCTIONS


@every_file
def test_packages_are_known_only_where_they_belong(path):
    names = [name for _, name in imported(parse(path))]
    astray = {
        package
        for package, parts in ONLY_IN.items()
        if part(path) not in parts and any(begins(name, package) for name in names)
    }
    assert not astray


@every_file
def test_no_private_names_of_other_packages(path):
    tree = parse(path)
    foreign = [pair for pair in imported(tree) if not begins(pair[1], "bbvi")]
    found = [name for _, name in foreign if any(map(private, name.split(".")))]
    bound = {
        alias.asname or alias.name.split(".")[0]
        for node, _ in foreign
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in bound:
                found.append(f"{ast.unparse(node)} (line {node.lineno})")
    assert not found


@every_file
def test_all_names_what_exists(path):
    tree = parse(path)
    bound, exported = set(), []
    blocks = [node.body for node in tree.body if isinstance(node, ast.With)]
    for node in sum(blocks, tree.body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {a.asname or a.name.split(".")[0] for a in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (n for t in targets for n in ast.walk(t)):
                bound |= {name.id} if isinstance(name, ast.Name) else set()
            if "__all__" in [getattr(target, "id", None) for target in targets]:
                exported = ast.literal_eval(node.value)
    assert set(exported) <= bound
    assert len(set(exported)) == len(exported)


@every_file
def test_public_names_are_documented(path):
    tree = parse(path)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    public = [n for n in tree.body if isinstance(n, kinds) and n.name[0] != "_"]
    bare = [node.name for node in public if not ast.get_docstring(node)]
    assert not bare
    assert ast.get_docstring(tree), "say at the top what the file is for"


@every_file
def test_files_and_functions_stay_small(path):
    tree = parse(path)
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE
    assert not {
        f.name: n for f in functions(tree) if (n := length(f)) > LONGEST_FUNCTION
    }


def length(function):
    """Lines of a function's body, its docstring not counted."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@every_file
def test_only_the_edges_print(path):
    calls = [n.func for n in ast.walk(parse(path)) if isinstance(n, ast.Call)]
    lines = [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]
    assert not lines or str(path.relative_to(ROOT / "bbvi")) in MAY_PRINT


def test_the_rules_themselves_go_downward():
    """No two parts may import each other, not even through others."""
    order = list(MAY_IMPORT)
    for later, below in MAY_IMPORT.items():
        both_ways = [b for b in below - {later} if later in MAY_IMPORT[b]]
        assert not both_ways
        assert all(order.index(b) < order.index(later) for b in below - {later})
