"""Is the answer right on real posteriors, and how long does it take?

    python -m benchmarks.accuracy                       # both sets, bbvi and all rivals
    python -m benchmarks.accuracy arm --methods bbvi "bbvi MeanField"
    python -m benchmarks.accuracy posteriordb --only nes2000-nes --seeds 0 1 2

Every fit is a cold process of its own with default settings. A row gives its seconds,
imports included, the errors of means and standard deviations on the draws that the
verdict recommends, the same of the plain draws in brackets, k-hat, status and verdict.
Where the two are not the same, the seconds are without the plain draws. Of several
seeds it says how far apart their fits are.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._accuracy_one import METHODS
from benchmarks._bytecode import ROOT, compile_bytecode

SETS = ("posteriordb", "arm")
LIMIT = 600.0
"""Seconds after which a process is stopped."""


def names_of(which: str) -> tuple[str, ...]:
    """Posteriors of a set."""
    from benchmarks import _arm, _posteriordb

    return _arm.names() if which == "arm" else tuple(_posteriordb.posteriors())


def measure(method: str, which: str, name: str, seed: int) -> dict[str, Any]:
    """One row: what the process says of itself, and its seconds."""
    command = [sys.executable, "-m", "benchmarks._accuracy_one", method, which, name]
    environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, str(seed)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
        )
        said = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        said = {"failed": error.stderr.strip().splitlines()[-1][:80]}
    except subprocess.TimeoutExpired:
        said = {"failed": f"stopped after {LIMIT:.0f} s"}
    seconds = time.perf_counter() - start - said.pop("aside", 0.0)
    row = {"method": method, "set": which, "name": name, "seed": seed}
    return row | {"seconds": seconds} | said


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    head = f"{row['name'][:40]:40s} {row['method']:22s} {row['seconds']:6.1f} s "
    if "failed" in row:
        return head + f"failed: {row['failed']}"
    text = head + "mean {:8.3f} sd {:8.3f}".format(*row["errors"])
    if "verdict" in row:
        text += " ({:.3f} {:.3f})".format(*row["plain"])
        text += f" k-hat {row['khat']:5.2f} {row['status']}, {row['verdict']}"
        text += f", {row['guide']}, {row['steps']} steps"
    if "below" in row:
        text += f", {row['below']:.2f} nats below the best mean field"
    return text


def summary(rows: list[dict[str, Any]], method: str) -> str:
    """Medians, worst errors and seconds of a method."""
    mine = [row for row in rows if row["method"] == method]
    done = [row for row in mine if "failed" not in row]
    if not done:
        return f"{method}: no result of {len(mine)}"
    parts = [f"{method}: {len(done)} of {len(mine)} ended"]
    for which, what in enumerate(("mean", "sd")):
        errors = [
            row["errors"][which] if math.isfinite(row["errors"][which]) else math.inf
            for row in done
        ]
        parts.append(
            f"{what} error median {statistics.median(errors):.3f}, "
            f"worst {max(errors):.3f}, {sum(e <= 0.1 for e in errors)} within 0.1"
        )
    seconds = [row["seconds"] for row in done]
    parts.append(f"seconds median {statistics.median(seconds):.1f}")
    if "verdict" in done[0]:
        wrong = [r for r in done if r["verdict"] != "DO_NOT_TRUST"]
        wrong = [r["name"] for r in wrong if max(r["errors"]) > 0.1]
        parts.append(f"trusted although an error is above 0.1: {wrong or 'none'}")
        parts.append(f"k-hat below 0.7 on {sum(r['khat'] < 0.7 for r in done)}")
    below = [row["below"] for row in done if "below" in row]
    if below:
        near = sum(b <= 0.1 for b in below)
        parts.append(f"{near} of {len(below)} within 0.1 nat of the best mean field")
    return "; ".join(parts)


def apart(rows: list[dict[str, Any]], method: str) -> list[str]:
    """How far fits of one posterior with different seeds lie from each other.

    The largest difference of a mean or a standard deviation of q, in q's standard
    deviations, and the standard error of that difference which the two stated
    Monte-Carlo errors, each of its worst coordinate, make together; nan if not stated.
    Of fits that ended in the same family: another has another best q.
    """
    fits: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == method and "failed" not in row:
            fits.setdefault((row["name"], row["guide"]), []).append(row)
    found = []
    for (name, guide), given in fits.items():
        pairs = [_difference(*pair) for pair in itertools.combinations(given, 2)]
        if pairs:
            far, stated = max(pairs)
            text = f"{name[:40]:40s} {far:.3f} sd, stated error {stated:.3f}"
            found.append(f"{text}, {len(given)} seeds in {guide}")
    return found


def _difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    sds = [math.sqrt(a * b) for a, b in zip(one["sd"], other["sd"], strict=True)]
    far = max(
        abs(a - b) / sd
        for what in ("mean", "sd")
        for a, b, sd in zip(one[what], other[what], sds, strict=True)
    )
    return far, math.hypot(one["stated"], other["stated"])


def ratio(rows: list[dict[str, Any]], rival: str) -> str:
    """Geometric mean of our seconds over a rival's."""
    seconds = {(r["name"], r["seed"], r["method"]): r["seconds"] for r in rows}
    logs = [
        math.log(value / seconds[name, seed, rival])
        for (name, seed, method), value in seconds.items()
        if method == "bbvi" and (name, seed, rival) in seconds
    ]
    mean = math.exp(sum(logs) / len(logs)) if logs else math.nan
    return f"seconds of bbvi over {rival}: {mean:.2f} in geometric mean"


def main() -> None:
    """Runs all that is asked for, and prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.accuracy")
    parser.add_argument("sets", nargs="*", default=SETS, help=" or ".join(SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    compile_bytecode()
    rows = []
    for which in asked.sets:
        for name in names_of(which):
            if asked.only and name not in asked.only:
                continue
            for method in asked.methods:
                for seed in asked.seeds:
                    row = measure(method, which, name, seed)
                    if which == "arm" and method == "bbvi MeanField" and "elbo" in row:
                        from benchmarks import _arm

                        row["below"] = _arm.mean_field_elbo(name) - row["elbo"]
                    rows.append(row)
                    sys.stdout.write(line(row) + "\n")
                    sys.stdout.flush()
        mine = [row for row in rows if row["set"] == which]
        sys.stdout.write(f"\n{which}\n")
        for method in asked.methods:
            sys.stdout.write(f"  {summary(mine, method)}\n")
        for rival in asked.methods:
            if rival != "bbvi" and "bbvi" in asked.methods:
                sys.stdout.write(f"  {ratio(mine, rival)}\n")
        if len(asked.seeds) > 1:
            sys.stdout.write("  seeds of bbvi lie apart by up to\n")
            for text in apart(mine, "bbvi"):
                sys.stdout.write(f"    {text}\n")
        sys.stdout.write("\n")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
