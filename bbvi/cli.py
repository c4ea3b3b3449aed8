"""The command line: ``bbvi fit FILE[:model]`` and ``bbvi plan FILE[:model]``.

``FILE`` is a Python file with a function ``model`` and a function ``data()``. Instead
of the latter, ``--data`` gives the data as JSON (a mapping of the arguments) or as CSV
(its columns). A function ``guide`` in the file is used as the guide.
"""

import argparse
import csv
import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from bbvi.fitting import fit as fit_model
from bbvi.guides import FullRank, MeanField
from bbvi.planning import plan as plan_model
from bbvi.verdict import Level

GUIDES = {"mean-field": MeanField, "full-rank": FullRank}
"""Families by their names on the command line."""
MAX_ROWS = 40
"""Rows of the summary that are printed."""
MAX_TABLES = 3
"""Discrete elements whose whole distribution is printed."""
BAR = 40
"""Width of the longest bar."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Default those of the process.

    Returns:
        The exit status: 0 for a fit that may be used, 1 for one that may not (not
        converged, or a verdict not to trust it), 2 for bad input.

    Example:
        >>> import bbvi.cli
        >>> bbvi.cli.main(["plan", "missing.py"])
        2
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, AttributeError) as error:
        print(f"bbvi: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bbvi",
        description="Black-box variational inference for NumPyro models.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    plan = commands.add_parser("plan", help="print the plan of a model, fit nothing")
    fit = commands.add_parser("fit", help="fit a model and write it for ArviZ")
    for command, run in ((plan, _plan), (fit, _fit)):
        command.set_defaults(run=run)
        command.add_argument(
            "file", metavar="FILE[:MODEL]", help="Python file; MODEL defaults to model"
        )
        command.add_argument(
            "--data", metavar="FILE", help="JSON or CSV; default data() of FILE"
        )
        command.add_argument(
            "--guide", choices=sorted(GUIDES), help="family; default chosen"
        )
    fit.add_argument("--seed", type=int, default=0, help="default 0")
    fit.add_argument("--max-steps", type=int, help="limit on steps")
    fit.add_argument("--max-seconds", type=float, help="limit on time")
    fit.add_argument("--output", metavar="FILE", help="netCDF; default MODEL.nc")
    fit.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _plan(options: argparse.Namespace) -> int:
    model, data, guide, _ = _read(options)
    print(plan_model(model, data, guide=guide))
    return 0


def _fit(options: argparse.Namespace) -> int:
    model, data, guide, path = _read(options)
    print(plan_model(model, data, guide=guide), flush=True)
    print(flush=True)
    fit = fit_model(
        model,
        data,
        guide=guide,
        seed=options.seed,
        max_steps=options.max_steps,
        max_seconds=options.max_seconds,
        progress=not options.quiet,
    )
    output = pathlib.Path(options.output or f"{path.stem}.nc")
    _write(fit, output)
    print(*("", _summary(fit), *_distributions(fit), "", fit), sep="\n")
    print(f"written  {output}")
    return 1 if fit.verdict.level is Level.DO_NOT_TRUST else 0


def _read(options: argparse.Namespace) -> tuple[Any, Any, Any, pathlib.Path]:
    """Model, data and guide, and the path of the model's file."""
    name, _, attribute = options.file.partition(":")
    path = pathlib.Path(name)
    module = _import(path)
    model = _member(module, attribute or "model", path)
    data = _read_data(pathlib.Path(options.data)) if options.data else None
    if data is None:
        data = _member(module, "data", path)()
    guide = GUIDES[options.guide]() if options.guide else getattr(module, "guide", None)
    return model, data, guide, path


def _import(path: pathlib.Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _member(module: ModuleType, name: str, path: pathlib.Path) -> Any:
    if not callable(getattr(module, name, None)):
        raise AttributeError(
            f"{path} has no function {name!r}: FILE needs model(...) and data(), or "
            f"name another model with FILE:MODEL and the data with --data"
        )
    return getattr(module, name)


def _read_data(path: pathlib.Path) -> dict[str, Any]:
    if path.suffix == ".json":
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error})") from error
    if path.suffix != ".csv":
        raise ValueError(f"--data must be a .json or .csv file; found {str(path)!r}")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return {
            name: np.array([json.loads(row[name]) for row in rows]) for name in rows[0]
        }
    except (ValueError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path} must have a header and rows of numbers ({error})"
        ) from error


def _write(fit: Any, path: pathlib.Path) -> None:
    from bbvi.export import to_netcdf

    reweighted = fit.verdict.level is Level.REWEIGHT
    tree = fit.to_arviz(reweighted=reweighted, posterior_predictive=True)
    to_netcdf(tree, path)


def _summary(fit: Any) -> str:
    """The summary, shortened to what fits on a screen."""
    table = fit.summary()
    return (
        table.astype(object)
        .where(table.notna(), "")
        .to_string(max_rows=MAX_ROWS, formatters=dict.fromkeys(table.columns, _number))
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _distributions(fit: Any) -> list[str]:
    """The likeliest values of the first few discrete elements, with bars."""
    lines = []
    reweighted = fit.verdict.level is Level.REWEIGHT
    shown = 0
    for name, draws in fit.draws(4_000, reweighted=reweighted).items():
        if draws.dtype.kind not in "iub" or draws.size == 0:
            continue
        elements = draws.reshape(len(draws), -1).T
        for index, element in enumerate(elements[: MAX_TABLES - shown]):
            where = np.unravel_index(index, draws.shape[1:])
            label = f"{name}{[int(i) for i in where] if where else ''}"
            values, counts = np.unique(element, return_counts=True)
            likely = np.sort(np.argsort(counts)[::-1][:8])
            lines += ["", f"{label}, its {len(likely)} likeliest values"]
            for value, share in zip(values[likely], counts[likely], strict=True):
                share = share / len(element)
                bar = "#" * round(BAR * share * len(element) / counts.max())
                lines.append(f"  {value:>8}  {share:6.3f}  {bar}")
            shown += 1
    return lines
