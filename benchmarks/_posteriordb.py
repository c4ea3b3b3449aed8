"""The fourteen posteriors of posteriordb, written as a NumPyro user would.

Each is `Posterior(model, data, reference, of)`: `reference` maps the parameters of the
stored file, `"beta[1]"` and so on, to mean and standard deviation; `of` renames our
draws to its names. The mixture and the hidden Markov model keep their discrete states;
`summed_by_hand` holds the versions without. Flat priors are `ImproperUniform`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.experimental.ode import odeint
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

FOLDER = Path(__file__).parent / "data" / "posteriordb"
sample, plate, deterministic = numpyro.sample, numpyro.plate, numpyro.deterministic
Draws = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Posterior:
    """A model with data and reference moments.

    Attributes:
        model: The NumPyro model.
        data: Its arguments.
        reference: `{parameter: (mean, sd)}`, each an array.
        of: The same parameters of draws `{site: (n, ...)}`, each `(n, ...)`.
        is_double: Whether single precision cannot hold its density.
        marginal: The model without discrete sites, for samplers that need it.
    """

    model: Callable[..., None]
    data: Mapping[str, Any]
    reference: Mapping[str, tuple[np.ndarray, np.ndarray]]
    of: Callable[[Draws], Draws]
    is_double: bool = False
    marginal: Callable[..., None] | None = None


def flat(name: str, support: Any, size: int | None = None) -> jax.Array:
    """A parameter with a flat prior on its support."""
    shape = () if size is None else (size,)
    return sample(name, dist.ImproperUniform(support, (), shape))


def linear(x: jax.Array, y: jax.Array, sigma_prior: Any = None) -> None:
    """Linear regression with flat coefficients."""
    beta = flat("beta", constraints.real_vector, x.shape[1])
    if sigma_prior is None:
        sigma = flat("sigma", constraints.positive)
    else:
        sigma = sample("sigma", sigma_prior)
    with plate("rows", len(y)):
        sample("y", dist.Normal(x @ beta, sigma), obs=y)


def kidiq(x: jax.Array, y: jax.Array) -> None:
    """Test scores of children given their mothers."""
    linear(x, y, dist.HalfCauchy(2.5))


def blr(X: jax.Array, y: jax.Array) -> None:  # noqa: N803
    """Bayesian linear regression with correlated columns."""
    beta = sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(10))
    with plate("rows", len(y)):
        sample("y", dist.Normal(X @ beta, sigma), obs=y)


def wells(x: jax.Array, y: jax.Array) -> None:
    """Logistic regression with flat coefficients."""
    alpha = flat("alpha", constraints.real)
    beta = flat("beta", constraints.real_vector, x.shape[1])
    with plate("rows", len(y)):
        sample("y", dist.Bernoulli(logits=alpha + x @ beta), obs=y)


def eight_schools_centered(sigma: jax.Array, y: jax.Array) -> None:
    """School effects with known errors."""
    mu, tau = sample("mu", dist.Normal(0, 5)), sample("tau", dist.HalfCauchy(5))
    with plate("schools", len(y)):
        theta = sample("theta", dist.Normal(mu, tau))
        sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(sigma: jax.Array, y: jax.Array) -> None:
    """The same, standardised."""
    mu, tau = sample("mu", dist.Normal(0, 5)), sample("tau", dist.HalfCauchy(5))
    with plate("schools", len(y)):
        theta_trans = sample("theta_trans", dist.Normal(0, 1))
        theta = deterministic("theta", mu + tau * theta_trans)
        sample("y", dist.Normal(theta, sigma), obs=y)


def arma(y: jax.Array) -> None:
    """ARMA(1, 1)."""
    mu, phi = sample("mu", dist.Normal(0, 10)), sample("phi", dist.Normal(0, 2))
    theta = sample("theta", dist.Normal(0, 2))
    sigma = sample("sigma", dist.HalfCauchy(2.5))

    def step(before: tuple, y: jax.Array) -> tuple:
        y_before, error = before
        nu = mu + phi * y_before + theta * error
        return (y, y - nu), nu

    _, nu = jax.lax.scan(step, (mu, 0.0), y)
    sample("y", dist.Normal(nu, sigma), obs=y)


def garch(y: jax.Array, sigma1: float) -> None:
    """GARCH(1, 1)."""
    mu = flat("mu", constraints.real)
    alpha0 = flat("alpha0", constraints.positive)
    alpha1 = flat("alpha1", constraints.unit_interval)
    beta1 = flat("beta1", constraints.interval(0.0, 1 - alpha1))

    def step(variance: jax.Array, y: jax.Array) -> tuple:
        return alpha0 + alpha1 * (y - mu) ** 2 + beta1 * variance, variance

    _, variance = jax.lax.scan(step, jnp.square(jnp.asarray(sigma1, y.dtype)), y)
    sample("y", dist.Normal(mu, jnp.sqrt(variance)), obs=y)


def gp_poisson(x: jax.Array, k: jax.Array) -> None:
    """Poisson counts with a latent Gaussian process."""
    rho, alpha = sample("rho", dist.Gamma(25, 4)), sample("alpha", dist.HalfNormal(2))
    f_tilde = sample("f_tilde", dist.Normal(0, 1).expand([len(x)]).to_event(1))
    square = (x[:, None] - x) ** 2
    kernel = alpha**2 * jnp.exp(-square / (2 * rho**2)) + 1e-10 * jnp.eye(len(x))
    f = deterministic("f", jnp.linalg.cholesky(kernel) @ f_tilde)
    sample("k", dist.Poisson(jnp.exp(f)), obs=k)


def mixture_parameters() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Locations, scales and share of two ordered normals."""
    mu = flat("mu", constraints.ordered_vector, 2)
    numpyro.factor("prior", dist.Normal(0, 2).log_prob(mu))
    sigma = sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    return mu, sigma, sample("theta", dist.Beta(5, 5))


def mixture(y: jax.Array) -> None:
    """Two normals with the component of each row."""
    mu, sigma, theta = mixture_parameters()
    with plate("rows", len(y)):
        z = sample("z", dist.Bernoulli(1 - theta))
        sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


def mixture_by_hand(y: jax.Array) -> None:
    """The same, components summed."""
    mu, sigma, theta = mixture_parameters()
    weights = dist.Categorical(jnp.stack([theta, 1 - theta]))
    with plate("rows", len(y)):
        sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def hmm_parameters() -> tuple[jax.Array, jax.Array]:
    """Transition rows and ordered locations of two states."""
    mu = flat("mu", constraints.positive_ordered_vector, 2)
    numpyro.factor("prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu))
    rows = [sample(name, dist.Dirichlet(jnp.ones(2))) for name in ("theta1", "theta2")]
    return jnp.stack(rows), mu


def hmm(y: jax.Array) -> None:
    """Hidden Markov model with the state of each time."""
    transition, mu = hmm_parameters()

    def step(before: tuple, y: jax.Array) -> tuple:
        state, first = before
        probs = jnp.where(first, jnp.array([0.5, 0.5]), transition[state])
        z = sample("z", dist.Categorical(probs))
        sample("y", dist.Normal(mu[z], 1.0), obs=y)
        return (z, jnp.array(False)), None  # noqa: FBT003

    scan(step, (0, jnp.array(True)), y)  # noqa: FBT003


def hmm_by_hand(y: jax.Array) -> None:
    """The same, states summed by the forward algorithm."""
    transition, mu = hmm_parameters()
    log_lik = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def step(alpha: jax.Array, log_lik: jax.Array) -> tuple:
        moved = jax.nn.logsumexp(alpha[:, None] + jnp.log(transition), axis=0)
        return moved + log_lik, None

    alpha, _ = jax.lax.scan(step, log_lik[0] - jnp.log(2.0), log_lik[1:])
    numpyro.factor("y", jax.nn.logsumexp(alpha))


def lotka_volterra(ts: jax.Array, y_init: jax.Array, y: jax.Array) -> None:
    """Predator and prey."""
    wide, narrow = dist.TruncatedNormal(1, 0.5, low=0), None
    narrow = dist.TruncatedNormal(0.05, 0.05, low=0)
    theta = jnp.stack(
        [
            sample(f"theta_{n}", d)
            for n, d in zip("abcd", (wide, narrow) * 2, strict=True)
        ]
    )
    sigma = sample("sigma", dist.LogNormal(-1, 1).expand([2]).to_event(1))
    z_init = sample("z_init", dist.LogNormal(jnp.log(10), 1).expand([2]).to_event(1))

    def rate(z: jax.Array, _: Any, theta: jax.Array) -> jax.Array:
        a, b, c, d = theta
        return jnp.array([(a - b * z[1]) * z[0], (-c + d * z[0]) * z[1]])

    times = jnp.concatenate([jnp.zeros(1), ts])
    z = odeint(rate, z_init, times, theta, rtol=1e-6, atol=1e-5, mxstep=1_000)
    sample("y_init", dist.LogNormal(jnp.log(z_init), sigma).to_event(1), obs=y_init)
    sample("y", dist.LogNormal(jnp.log(z[1:]), sigma).to_event(2), obs=y)


def accel_gp(Y: jax.Array, bases: Any, frequencies: Any) -> None:  # noqa: N803
    """Motorcycle crash: approximate Gaussian processes for mean and log scale."""
    terms = []
    for part, at, scale in (("", -13, 36), ("_sigma", 0, 10)):
        intercept = sample(f"Intercept{part}", dist.StudentT(3, at, scale))
        half = dist.FoldedDistribution(dist.StudentT(3, 0, 36))
        sd = sample(f"sdgp{part}_1", half)
        length = sample(f"lscale{part}_1", dist.InverseGamma(1.124909, 0.0177))
        basis, frequency = bases[part], frequencies[part]
        z = sample(
            f"zgp{part}_1", dist.Normal(0, 1).expand([len(frequency)]).to_event(1)
        )
        density = (
            jnp.sqrt(2 * jnp.pi) * length * jnp.exp(-((length * frequency) ** 2) / 2)
        )
        terms.append(intercept + basis @ (sd * jnp.sqrt(density) * z))
    sample("Y", dist.Normal(terms[0], jnp.exp(terms[1])), obs=Y)


def stored(name: str) -> dict[str, Any]:
    """The arrays of a data file."""
    found = json.loads((FOLDER / "data" / f"{name}.json").read_text())
    return {
        n: np.asarray(x, np.float32 if np.asarray(x).dtype.kind == "f" else np.int32)
        for n, x in found.items()
    }


def columns(*each: Any) -> np.ndarray:
    """Columns of a design matrix, after a column of ones."""
    return np.stack([np.ones_like(each[0]), *each], 1).astype(np.float32)


def reference_of(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Moments by name, the elements of an array together."""
    params = json.loads((FOLDER / f"{name}.json").read_text())["params"]
    together: dict[str, list[Any]] = {}
    for key, moments in params.items():
        together.setdefault(key.split("[")[0], []).append(moments)
    return {
        key: tuple(np.array([m[which] for m in each]) for which in ("mean", "sd"))
        for key, each in together.items()
    }


def _rows(draws: Draws, names: Any) -> Draws:
    return {n: draws[n].reshape(len(draws[n]), -1) for n in names}


def _lotka(draws: Draws, names: Any) -> Draws:
    theta = np.stack([draws[f"theta_{n}"] for n in "abcd"], 1)
    return _rows({**draws, "theta": theta}, names)


def _regressions() -> dict[str, tuple[Callable[..., None], dict[str, Any]]]:
    kid, earn, nes = stored("kidiq"), stored("earnings"), stored("nes2000")
    well, blr_data = stored("wells_data"), stored("sblrc")
    interaction = kid["mom_hs"] * kid["mom_iq"]
    ages = [nes["age_discrete"] == age for age in (2, 3, 4)]
    others = [nes[n] for n in ("educ1", "gender", "income")]
    return {
        "kidiq-kidscore_interaction": (
            kidiq,
            {
                "x": columns(kid["mom_hs"], kid["mom_iq"], interaction),
                "y": kid["kid_score"].astype(np.float32),
            },
        ),
        "earnings-logearn_interaction": (
            linear,
            {
                "x": columns(
                    earn["height"], earn["male"], earn["height"] * earn["male"]
                ),
                "y": np.log(earn["earn"]).astype(np.float32),
            },
        ),
        "nes2000-nes": (
            linear,
            {
                "x": columns(nes["real_ideo"], nes["race_adj"], *ages, *others),
                "y": nes["partyid7"].astype(np.float32),
            },
        ),
        "sblrc-blr": (blr, {n: blr_data[n] for n in "Xy"}),
        "wells_data-wells_dist100ars_model": (
            wells,
            {
                "x": np.stack([well["dist"] / 100, well["arsenic"]], 1).astype(
                    np.float32
                ),
                "y": well["switched"],
            },
        ),
    }


def _others() -> dict[str, tuple[Callable[..., None], dict[str, Any]]]:
    schools = {n: stored("eight_schools")[n].astype(np.float32) for n in ("sigma", "y")}
    garch_data, lynx = stored("garch"), stored("hudson_lynx_hare")
    gp, crash = stored("gp_pois_regr"), stored("mcycle_gp")
    parts = ("", "_sigma")
    return {
        "eight_schools-eight_schools_centered": (eight_schools_centered, schools),
        "eight_schools-eight_schools_noncentered": (eight_schools_noncentered, schools),
        "arma-arma11": (arma, {"y": stored("arma")["y"]}),
        "garch-garch11": (garch, {n: garch_data[n] for n in ("y", "sigma1")}),
        "gp_pois_regr-gp_pois_regr": (gp_poisson, {n: gp[n] for n in "xk"}),
        "low_dim_gauss_mix-low_dim_gauss_mix": (
            mixture,
            {"y": stored("low_dim_gauss_mix")["y"]},
        ),
        "hmm_example-hmm_example": (hmm, {"y": stored("hmm_example")["y"]}),
        "hudson_lynx_hare-lotka_volterra": (
            lotka_volterra,
            {n: lynx[n].astype(np.float32) for n in ("ts", "y_init", "y")},
        ),
        "mcycle_gp-accel_gp": (
            accel_gp,
            {
                "Y": crash["Y"].astype(np.float32),
                "bases": {part: crash[f"Xgp{part}_1"] for part in parts},
                "frequencies": {
                    part: crash[f"slambda{part}_1"][:, 0] for part in parts
                },
            },
        ),
    }


BY_HAND = {
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture_by_hand,
    "hmm_example-hmm_example": hmm_by_hand,
}
DOUBLE = ("gp_pois_regr-gp_pois_regr",)


@functools.cache
def posteriors() -> dict[str, Posterior]:
    """All fourteen by name."""
    found = {}
    for name, (model, data) in {**_regressions(), **_others()}.items():
        reference = reference_of(name)
        pick = _lotka if model is lotka_volterra else _rows
        of = functools.partial(pick, names=tuple(reference))
        is_double, marginal = name in DOUBLE, BY_HAND.get(name)
        found[name] = Posterior(model, data, reference, of, is_double, marginal)
    return found
