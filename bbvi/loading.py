"""`load`: a fit from a file."""

from os import PathLike
from typing import Any

import jax
import numpy as np

from bbvi.diagnostics import Estimate, Smoothed
from bbvi.drawing import Draw
from bbvi.fitting import default_programs
from bbvi.planning import Plan
from bbvi.result import HISTORY, Fit, History, Live
from bbvi.saving import flatten, read
from bbvi.verdict import Level, Status, Verdict


def load(path: str | PathLike[str], *, plan: Plan | None = None) -> Fit:
    """A fit from a file that `Fit.save` wrote.

    Without its model a fit has the draws that were saved; with its plan it makes new
    ones and predicts.

    Args:
        path: The file.
        plan: ``bbvi.plan(model, data, guide=...)`` as it was fitted.

    Returns:
        The fit.

    Raises:
        ValueError: The file is no saved fit, or the plan has other parameters.

    Example:
        >>> import bbvi
        >>> bbvi.load("nothing.npz")
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'nothing.npz'
    """
    header, groups = read(path)
    density, history = groups["density"], groups["history"]
    level, *sentences = header["verdict"]
    draw = Draw(
        groups.get("values", {}),
        density["log_p"],
        density["log_q"],
        groups.get("log_likelihood", {}),
    )
    stored = {
        "draw": draw,
        "plan": header["plan"],
        "dims": header["dims"],
        "observed": groups.get("observed", {}),
        "constant": groups.get("constant", {}),
    }
    key = jax.random.wrap_key_data(groups["key"]["data"])
    params = groups.get("params", {})
    live = None
    if plan is not None:
        params, live = _unflatten(plan, params, key), _live(plan)
    log_weights = groups["weights"]["log_weights"]
    khat, ess = header["weights"]
    return Fit(
        status=Status[header["status"]],
        verdict=Verdict(Level[level], *sentences),
        params=params,
        history=History(
            **{name: history[name] for name in HISTORY},
            snr=groups.get("snr", {}),
            note=header["note"],
            path=tuple(header["path"]),
        ),
        elbo=Estimate(*header["elbo"]),
        weights=Smoothed(log_weights, khat, ess),
        key=key,
        live=live,
        stored=None if live else stored,
    )


def _unflatten(plan: Plan, flat: dict[str, Any], key: Any) -> Any:
    """Saved parameters in the structure of a plan's."""
    expected = jax.eval_shape(plan.init, key)
    known = flatten(expected)
    shapes = {n: tuple(np.shape(x)) for n, x in flat.items()}
    if {n: tuple(x.shape) for n, x in known.items()} != shapes:
        raise ValueError(
            f"the plan's parameters {sorted(known)} are not those of the file, "
            f"{sorted(flat)}, or have other shapes: plan with the same model, data "
            f"shapes and guide"
        )
    return jax.tree.unflatten(jax.tree.structure(expected), [flat[n] for n in known])


def _live(plan: Plan) -> Live:
    return Live(plan, default_programs(plan), plan.analysis.arguments.arrays)
