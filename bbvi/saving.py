"""Fits on disk: one ``.npz`` file of arrays and a JSON header, no pickle."""

import json
from os import PathLike
from typing import Any

import jax
import numpy as np

from bbvi.diagnostics import Estimate, psis
from bbvi.objective import Draw
from bbvi.planning import Plan
from bbvi.result import Fit, History, Level, Live, Status, Verdict, describe, read_key

VERSION = 1
"""Of the file's layout."""
_HISTORY = ("step", "elbo", "learning_rate", "start_elbos")


def save(fit: Fit, path: str | PathLike[str], num_draws: int) -> None:
    """Write a fit; `Fit.save` is the way to call it."""
    made = fit._sample(num_draws, None, reweighted=False)
    described = fit.stored or describe(fit.live.plan)
    groups = {
        "values": made.values,
        "log_likelihood": made.log_likelihood,
        "observed": described["observed"],
        "constant": described["constant"],
        "snr": fit.history.snr,
        "params": _flat(fit.params),
        "history": {name: getattr(fit.history, name) for name in _HISTORY},
        "density": {"log_p": made.log_p, "log_q": made.log_q},
        "weights": {"log_weights": fit.weights.log_weights},
        "key": {"data": np.asarray(jax.random.key_data(fit.key))},
    }
    header = {
        "version": VERSION,
        "status": fit.status.name,
        "verdict": [fit.verdict.level.name, fit.verdict.reason, fit.verdict.remedy],
        "elbo": [fit.elbo.value, fit.elbo.mcse],
        "weights": [fit.weights.khat, fit.weights.ess],
        "note": fit.history.note,
        "plan": str(fit.plan),
        "dims": described["dims"],
    }
    arrays = {
        f"{group}/{name}": np.asarray(value)
        for group, members in groups.items()
        for name, value in members.items()
    }
    with open(path, "wb") as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)


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
    with np.load(path, allow_pickle=False) as file:
        if "header" not in file:
            raise ValueError(f"{path} is no file that Fit.save wrote")
        header = json.loads(str(file["header"]))
        groups: dict[str, dict[str, Any]] = {}
        for name in file.files:
            if "/" in name:
                group, member = name.split("/", 1)
                groups.setdefault(group, {})[member] = file[name]
    if header["version"] != VERSION:
        raise ValueError(f"{path} has layout {header['version']}, expected {VERSION}")
    density, history = groups["density"], groups["history"]
    level, reason, remedy = header["verdict"]
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
    key = read_key(jax.random.wrap_key_data(groups["key"]["data"]))
    params = groups.get("params", {})
    live = None
    if plan is not None:
        params, live = _unflat(plan, params, key), _live(plan)
    log_weights = groups["weights"]["log_weights"]
    khat, ess = header["weights"]
    return Fit(
        status=Status[header["status"]],
        verdict=Verdict(Level[level], reason, remedy),
        params=params,
        history=History(
            **{name: history[name] for name in _HISTORY},
            snr=groups.get("snr", {}),
            note=header["note"],
        ),
        elbo=Estimate(*header["elbo"]),
        weights=type(psis(np.zeros(30)))(log_weights, khat, ess),
        key=key,
        live=live,
        stored=None if live else stored,
    )


def _flat(params: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


def _unflat(plan: Plan, flat: dict[str, Any], key: Any) -> Any:
    """Saved parameters in the structure of a plan's."""
    expected = jax.eval_shape(plan.init, key)
    known = _flat(expected)
    shapes = {n: tuple(np.shape(x)) for n, x in flat.items()}
    if {n: tuple(x.shape) for n, x in known.items()} != shapes:
        raise ValueError(
            f"the plan's parameters {sorted(known)} are not those of the file, "
            f"{sorted(flat)}, or have other shapes: plan with the same model, data "
            f"shapes and guide"
        )
    return jax.tree.unflatten(jax.tree.structure(expected), [flat[n] for n in known])


def _live(plan: Plan) -> Live:
    from bbvi.fitting import default_programs

    return Live(plan, default_programs(plan), plan.analysis.arguments.arrays)
