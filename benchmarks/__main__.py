"""Command line: `python -m benchmarks [NAME ...] [--repeats N] [--json FILE]`."""

import argparse
import importlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks import NAMES
from benchmarks._report import Row, table
from benchmarks._timing import attempt


def main() -> int:
    """Runs the named benchmarks, prints their table; 1 if a side failed."""
    arguments = _parser().parse_args()
    rows: list[Row] = []
    for name in arguments.names or NAMES:
        sys.stderr.write(f"{name} ...\n")
        rows += _rows(name, arguments.repeats)
    sys.stdout.write(table(rows) + "\n")
    if arguments.json:
        report = {"machine": _machine(), "rows": [row.to_dict() for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row.is_failed for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"from {', '.join(NAMES)}; all if none"
    )
    parser.add_argument("--repeats", type=int, help="repeats of every timing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    return parser


def _rows(name: str, repeats: int | None) -> list[Row]:
    """The rows of a benchmark; one failed row if it could not run at all."""

    def run() -> list[Row]:
        if name not in NAMES:
            raise ValueError(f"No benchmark {name!r}; there are {', '.join(NAMES)}.")
        module = importlib.import_module(f"benchmarks.{name}")
        return module.run() if repeats is None else module.run(repeats)

    rows = attempt(run)
    return (
        [Row(name, "-", "-", rows, "-", rows)] if isinstance(rows, Exception) else rows
    )


def _machine() -> dict[str, str]:
    import jax

    packages = {name: version(name) for name in ("jax", "jaxlib", "numpyro", "optax")}
    return packages | {
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(jax.devices()[0].device_kind),
    }


if __name__ == "__main__":
    sys.exit(main())
