r"""Twenty-seven regressions of Gelman and Hill with long-NUTS moments: one model.

$\eta = \text{intercept} + X \beta + \sum_{g,k} Z_{gk} u_{gk}$ with $u_{gk}$ at the
level of each row, $u_g = \text{sd}_g z_g$; the response is normal around $\eta$, or
Bernoulli with logit $\eta$.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from benchmarks._posteriordb import Draws, Posterior

FOLDER = Path(__file__).parent / "data" / "arm"
sample, plate = numpyro.sample, numpyro.plate


def model(
    family: str,
    prior: Mapping[str, Any],
    groups: tuple[tuple[str, int], ...],
    x: jax.Array | None,
    y: jax.Array,
    index: Mapping[str, jax.Array],
    z: Mapping[str, jax.Array],
    prior_sd: Mapping[str, jax.Array],
) -> None:
    """Regression with varying coefficients.

    Args:
        family: `gaussian` or `bernoulli`.
        prior: Locations and scales of `intercept`, `beta`, `sigma`.
        groups: Name and number of levels of each.
        x: Fixed columns, None if there are none.
        y: Response.
        index: Level of each row by group.
        z: Columns that vary, `(rows, columns)`, by group.
        prior_sd: Scales of half-normal priors, `(columns,)`, by group.
    """
    intercept = prior["intercept"]
    eta = sample("intercept", dist.Normal(intercept["loc"], intercept["scale"]))
    if x is not None:
        normal = dist.Normal(prior["beta"]["loc"], prior["beta"]["scale"]).to_event(1)
        eta = eta + x @ sample("beta", normal)
    for name, num_levels in groups:
        sd = sample(f"sd_{name}", dist.HalfNormal(prior_sd[name]).to_event(1))
        with plate(name, num_levels):
            standard = dist.Normal(0, 1).expand([len(prior_sd[name])]).to_event(1)
            u = numpyro.deterministic(f"u_{name}", sd * sample(f"z_{name}", standard))
        eta = eta + jnp.sum(z[name] * u[index[name]], -1)
    if family == "gaussian":
        scale, df = prior["sigma"]["scale"], prior["sigma"]["df"]
        sigma = sample("sigma", dist.FoldedDistribution(dist.StudentT(df, 0.0, scale)))
    with plate("rows", len(y)):
        if family == "gaussian":
            sample("y", dist.Normal(eta, sigma), obs=y)
        else:
            sample("y", dist.Bernoulli(logits=eta), obs=y)


def _load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def names() -> tuple[str, ...]:
    """Of all models."""
    return tuple(
        entry["name"] for entry in json.loads((FOLDER / "index.json").read_text())
    )


@functools.cache
def posterior(name: str) -> Posterior:
    """One of them."""
    stored = _load(name)
    x = np.asarray(stored["X"], np.float32)
    if stored["centre_X"] and x.size:
        x = x - x.mean(0)
    groups, index, z, prior_sd = [], {}, {}, {}
    for group in stored["groups"]:
        label, width = group["name"], len(group["columns"])
        groups.append((label, group["num_levels"]))
        index[label] = np.asarray(group["index"], np.int32)
        ones = np.ones((len(stored["y"]), width), np.float32)
        z[label] = ones if group["Z"] is None else np.asarray(group["Z"], np.float32)
        prior_sd[label] = np.asarray(group["prior_sd"]["scale"], np.float32)
    is_gaussian = stored["family"] == "gaussian"
    data = {
        "family": stored["family"],
        "prior": _numbers(stored["prior"]),
        "groups": tuple(groups),
        "x": x if x.size else None,
        "y": np.asarray(stored["y"], np.float32 if is_gaussian else np.int32),
        "index": index,
        "z": z,
        "prior_sd": prior_sd,
    }
    reference = {
        site: (np.ravel(moments["mean"]), np.ravel(moments["sd"]))
        for site, moments in stored["nuts"].items()
    }

    def of(draws: Draws) -> Draws:
        return {n: draws[n].reshape(len(draws[n]), -1) for n in reference}

    return Posterior(model, data, reference, of)


def mean_field_elbo(name: str) -> float:
    """The best factorised Gaussian's bound, in nats."""
    return float(_load(name)["mf_elbo"])


def _numbers(prior: Any) -> Any:
    """Locations and scales as arrays, without the names of the distributions."""
    return {
        site: {n: np.asarray(v, np.float32) for n, v in kind.items() if n != "dist"}
        for site, kind in prior.items()
    }
