"""Is a whole cold `bbvi.fit`, imports included, as quick as writing it by hand?

Three fresh interpreters in turn: the hand-written floor (5,000 Adam steps on `jax`
alone), NumPyro's `SVI.run` (5,000 steps) and `bbvi.fit` with its default stopping and
its diagnostics read. JAX's persistent compilation cache is off in all three. Each
bound is recomputed by `mean_field_bound`; ours from draws of the same fit.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks._bounds import mean_field_bound, unconstrained_moments
from benchmarks._bytecode import ROOT, compile_bytecode
from benchmarks._eight_schools import SITES, data, model
from benchmarks._report import Figure, Row
from benchmarks._timing import attempt, interleave

MODULES = {"bbvi": "_cold_bbvi", "jax floor": "_cold_floor", "numpyro": "_cold_numpyro"}
TARGETS = {"jax floor": 1.5, "numpyro": 1.0}


def run(repeats: int = 5) -> list[Row]:
    """Wall seconds, CPU seconds and $-$ELBO of the three processes."""
    compile_bytecode()
    said: dict[str, dict[str, Any]] = {}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in MODULES}

    def measure(name: str) -> float:
        wall, cpu, said[name] = cold_process(MODULES[name])
        cpu_seconds[name].append(cpu)
        return wall

    builders = {name: _without_setup(measure, name) for name in MODULES}
    walls = interleave(builders, repeats)
    cpus = {
        name: wall
        if isinstance(wall, Exception)
        else Figure.of_samples(cpu_seconds[name])
        for name, wall in walls.items()
    }
    bounds = {
        name: wall if isinstance(wall, Exception) else attempt(bound, name, said[name])
        for name, wall in walls.items()
    }
    if "bbvi" in said:
        sys.stderr.write(f"cold_eight_schools: bbvi says {said['bbvi']}\n")
    row = functools.partial(Row, benchmark="cold_eight_schools", ours="bbvi")
    return [
        row(
            quantity=quantity,
            ours_figure=figures["bbvi"],
            rival=rival,
            rival_figure=figures[rival],
            target=target if quantity == "wall s" else None,
            compare="difference" if quantity == "-ELBO" else "ratio",
        )
        for quantity, figures in (("wall s", walls), ("cpu s", cpus), ("-ELBO", bounds))
        for rival, target in TARGETS.items()
    ]


def cold_process(module: str) -> tuple[float, float, dict[str, Any]]:
    """Wall seconds, user + system CPU seconds and the JSON printed by a module.

    Raises:
        RuntimeError: The process failed; the message ends with its last words.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}"],
        cwd=ROOT,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as pipe:
        output = pipe.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{module} exited {process.returncode}: {output[-800:]}")
    cpu = usage.ru_utime + usage.ru_stime
    said = next(line for line in output.splitlines() if line.startswith("{"))
    return wall, cpu, json.loads(said)


def bound(name: str, said: dict[str, Any]) -> Figure:
    """$-$ELBO that a side has reached, judged on draws common to all."""
    if name == "bbvi":
        return ours_bound()
    return mean_field_bound(model, data(), said["loc"], said["scale"])


def ours_bound() -> Figure:
    """$-$ELBO of the cold process's fit, repeated here with the same seed."""
    import bbvi

    fit = bbvi.fit(model, data(), guide=bbvi.guides.MeanField(), progress=False)
    draws = fit.draws(20_000, seed=1)
    moments = unconstrained_moments(
        model, data(), {site: draws[site] for site in SITES}
    )
    return mean_field_bound(model, data(), *moments)


def _without_setup(
    measure: Callable[[str], float], name: str
) -> Callable[[], Callable[[], float]]:
    return lambda: functools.partial(measure, name)
