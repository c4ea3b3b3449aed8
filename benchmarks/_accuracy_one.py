"""One method on one posterior in a process of its own; prints JSON.

`python -m benchmarks._accuracy_one METHOD SET NAME SEED`. Errors are against the
reference: of means in its standard deviations, of standard deviations relative to it,
root mean squares over all parameters.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro

from benchmarks._posteriordb import Posterior

NUM_DRAWS = 4_000
NUM_STEPS, RATE = 10_000, 0.01
NUM_WARMUP = NUM_SAMPLES = 1_000


def load(which: str, name: str) -> Posterior:
    """A posterior by its set and name."""
    if which == "arm":
        from benchmarks import _arm

        return _arm.posterior(name)
    from benchmarks import _posteriordb

    return _posteriordb.posteriors()[name]


def errors(posterior: Posterior, draws: Mapping[str, Any]) -> tuple[float, float]:
    """Error of the means and of the standard deviations."""
    ours = posterior.of({n: np.asarray(x, np.float64) for n, x in draws.items()})
    off = [(ours[n].mean(0) - m) / sd for n, (m, sd) in posterior.reference.items()]
    spread = [ours[n].std(0) / sd - 1 for n, (_, sd) in posterior.reference.items()]
    return tuple(float(np.sqrt(np.mean(np.concatenate(x) ** 2))) for x in (off, spread))


def bbvi(posterior: Posterior, seed: int, guide: str | None = None) -> dict[str, Any]:
    """`bbvi.fit` with its defaults, or with a family."""
    import bbvi as library

    family = getattr(library.guides, guide)() if guide else None
    fit = library.fit(
        posterior.model, posterior.data, guide=family, seed=seed, progress=False
    )
    level = fit.verdict.level
    reweighted = level is library.Level.REWEIGHT
    wanted = errors(posterior, fit.draws(NUM_DRAWS, reweighted=reweighted))
    start = time.perf_counter()
    plain = errors(posterior, fit.draws(NUM_DRAWS)) if reweighted else wanted
    q = fit.plan.guide.gaussian(fit.plan.analysis, fit.plan.drawn, fit.params)
    stated = re.search(r"Monte-Carlo error (\S+) ", fit.history.note)
    return {
        "mean": np.concatenate([x.ravel() for x in q.loc.values()]).tolist(),
        "sd": np.sqrt(np.diagonal(q.covariance())).tolist(),
        "stated": float(stated[1]) if stated else float("nan"),
        "errors": wanted,
        "plain": plain,
        "aside": time.perf_counter() - start,
        "status": fit.status.name,
        "khat": float(fit.khat),
        "verdict": level.name,
        "elbo": float(fit.elbo.value),
        "guide": repr(fit.plan.guide),
        "steps": int(fit.history.step[-1]),
    }


def mean_field(posterior: Posterior, seed: int) -> dict[str, Any]:
    """`bbvi.fit` with the factorised Gaussian."""
    return bbvi(posterior, seed, "MeanField")


def nuts(posterior: Posterior, seed: int) -> dict[str, Any]:
    """NumPyro's NUTS, one chain, discrete sites summed by hand."""
    from numpyro.infer import MCMC, NUTS

    kernel = NUTS(posterior.marginal or posterior.model)
    mcmc = MCMC(
        kernel,
        num_warmup=NUM_WARMUP,
        num_samples=NUM_SAMPLES,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), **posterior.data)
    return {"errors": errors(posterior, mcmc.get_samples())}


def auto_normal(
    posterior: Posterior, seed: int, name: str = "AutoNormal"
) -> dict[str, Any]:
    """NumPyro's SVI with an automatic guide, Adam and its usual rate."""
    from numpyro.infer import SVI, Predictive, Trace_ELBO, autoguide
    from numpyro.optim import Adam

    model = posterior.marginal or posterior.model
    guide = getattr(autoguide, name)(model)
    svi = SVI(model, guide, Adam(RATE), Trace_ELBO())
    key = jax.random.key(seed)
    result = svi.run(key, NUM_STEPS, progress_bar=False, **posterior.data)
    draws = guide.sample_posterior(key, result.params, sample_shape=(NUM_DRAWS,))
    rest = Predictive(model, draws)(key, **posterior.data)
    return {"errors": errors(posterior, {**rest, **draws})}


def auto_full_rank(posterior: Posterior, seed: int) -> dict[str, Any]:
    """The same with the full-rank Gaussian."""
    return auto_normal(posterior, seed, "AutoMultivariateNormal")


METHODS: dict[str, Callable[[Posterior, int], dict[str, Any]]] = {
    "bbvi": bbvi,
    "bbvi MeanField": mean_field,
    "NUTS": nuts,
    "AutoNormal": auto_normal,
    "AutoMultivariateNormal": auto_full_rank,
}


def main() -> None:
    """Runs it."""
    method, which, name, seed = sys.argv[1:]
    posterior = load(which, name)
    if posterior.is_double:
        numpyro.enable_x64()
    sys.stdout.write(json.dumps(METHODS[method](posterior, int(seed))) + "\n")


if __name__ == "__main__":
    main()
