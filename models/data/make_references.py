"""Writes the stored references of the zoo, beside this file.

Run it with `python models/data/make_references.py` (under a minute). The mixtures and
the hidden Markov model are integrated by Gauss-Hermite quadrature around the mode of
their marginalised density, in five and four unconstrained dimensions; the anaesthetists
get a long Gibbs run.
"""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, logsumexp, sigmoid
from jax.scipy.stats import beta, norm
from scipy.optimize import minimize

DATA = Path(__file__).parent
NODES = 10


def old_faithful(u: jax.Array, y: jax.Array) -> tuple:
    """Log density of u = (logit(w_1), mu_1, log(gap), log(sigma)), sites, P(z = 1)."""
    mu = jnp.stack([u[1], u[1] + jnp.exp(u[2])])
    sigma, first = jnp.exp(u[3:]), sigmoid(u[0])
    log_prior = beta.logpdf(first, 2.0, 2.0) + log_sigmoid(u[0]) + log_sigmoid(-u[0])
    log_prior += norm.logpdf(u[1], 60, 10) + norm.logpdf(u[2], 3, 0.5)
    log_prior += norm.logpdf(u[3:], 2, 0.5).sum()
    terms = _component_terms(u[0], mu, sigma, y)
    sites = {"weights": jnp.stack([first, 1 - first]), "mu": mu, "sigma": sigma}
    log_density = log_prior + jnp.logaddexp(*terms).sum()
    return log_density, sites, sigmoid(terms[1] - terms[0])


def gauss_mix(u: jax.Array, y: jax.Array) -> tuple:
    """Log density of u = (logit(theta), middle, log(gap), log(sigma)); the same."""
    gap, sigma, theta = jnp.exp(u[2]), jnp.exp(u[3:]), sigmoid(u[0])
    mu = u[1] + gap * jnp.array([-0.5, 0.5])
    log_prior = beta.logpdf(theta, 5.0, 5.0) + log_sigmoid(u[0]) + log_sigmoid(-u[0])
    log_prior += norm.logpdf(mu, 0, 2).sum() + jnp.log(2) + u[2]
    log_prior += (norm.logpdf(sigma, 0, 2) + jnp.log(2) + u[3:]).sum()
    terms = _component_terms(u[0], mu, sigma, y)
    sites = {"middle": u[1], "gap": gap, "mu": mu, "sigma": sigma, "theta": theta}
    log_density = log_prior + jnp.logaddexp(*terms).sum()
    return log_density, sites, sigmoid(terms[1] - terms[0])


def hidden_markov(u: jax.Array, y: jax.Array) -> tuple:
    """Log density of u = (logit(theta_11), logit(theta_22), mu); the same."""
    stay, leave = log_sigmoid(u[:2]), log_sigmoid(-u[:2])
    moves = jnp.array([[stay[0], leave[0]], [leave[1], stay[1]]])
    log_prior = norm.logpdf(u[2:], jnp.array([3.0, 10.0]), 1).sum()
    log_prior += (stay + leave).sum()

    def forward(tilt: jax.Array) -> jax.Array:
        """Log density of y, second states tilted; its slope is P(z = 1)."""
        terms = norm.logpdf(y[:, None], u[2:], 1).at[:, 1].add(tilt)

        def step(before: jax.Array, term: jax.Array) -> tuple:
            return logsumexp(before[:, None] + moves, 0) + term, None

        last, _ = jax.lax.scan(step, terms[0] - jnp.log(2), terms[1:])
        return logsumexp(last)

    log_likelihood, second = jax.value_and_grad(forward)(jnp.zeros(len(y)))
    return log_prior + log_likelihood, {"theta": jnp.exp(moves), "mu": u[2:]}, second


def integrate(program: Callable, start: list[float], y: np.ndarray) -> dict:
    """Moments, P(z = 1) and log evidence by quadrature around the mode."""
    loss = jax.jit(lambda u: -program(u, y)[0])
    mode = minimize(loss, start, jac=jax.jit(jax.grad(loss)), tol=1e-12).x
    scale = np.linalg.cholesky(np.linalg.inv(jax.hessian(loss)(mode)))
    node, weight = np.polynomial.hermite_e.hermegauss(NODES)
    log_weight = np.log(weight) + 0.5 * node**2
    eps = np.array(list(product(node, repeat=len(start))))
    log_rule = np.array(list(product(log_weight, repeat=len(start)))).sum(1)
    points = mode + eps @ scale.T
    log_density = jax.lax.map(lambda u: -loss(u), points, batch_size=1000)
    log_density = np.asarray(log_density) + log_rule + np.log(np.diag(scale)).sum()
    log_evidence = np.logaddexp.reduce(log_density)
    weight = np.exp(log_density - log_evidence)

    def moments(u: jax.Array, w: jax.Array) -> tuple:
        _, sites, second = program(u, y)
        squares = jax.tree.map(jnp.square, sites)
        return jax.tree.map(lambda v: w * v, (sites, squares, second))

    def add(total: tuple, pair: tuple) -> tuple:
        return jax.tree.map(jnp.add, total, moments(*pair)), None

    kept = weight > 1e-12
    zero = jax.tree.map(jnp.zeros_like, moments(mode, 1.0))
    pairs = jnp.asarray(points[kept]), jnp.asarray(weight[kept])
    mean, square, second = jax.lax.scan(add, zero, pairs)[0]
    return {
        "mean": {s: np.asarray(v).tolist() for s, v in mean.items()},
        "sd": {s: np.sqrt(square[s] - v**2).tolist() for s, v in mean.items()},
        "prob_second": np.round(second, 9).tolist(),
        "log_evidence": float(log_evidence),
        "origin": "Gauss-Hermite quadrature of the marginalised density around its "
        f"mode in unconstrained space, {NODES}^{len(start)} points "
        "(data/make_references.py).",
    }


def anaesthetists(num_chains: int = 200, num_sweeps: int = 6000) -> dict:
    """Rao-Blackwellised moments from a Gibbs run, the first tenth of it dropped."""
    rng = np.random.default_rng(0)
    table = np.loadtxt(DATA / "anaesthetists.csv", delimiter=",", skiprows=1, dtype=int)
    one_hot = np.eye(4)[table[:, 1:] - 1]  # (patient, rating, class)
    tally = np.concatenate([one_hot[:, None, :3].sum(2), one_hot[:, 3:]], axis=1)
    prior = 1 + 4 * np.eye(4)
    z = rng.integers(4, size=(num_chains, len(table)))
    totals, by_chain = None, []
    for sweep in range(num_sweeps):
        members = np.eye(4)[z]  # (chain, patient, class)
        counts = {
            "prevalence": 1 + members.sum(1),
            "confusion": prior + np.einsum("cik,ijl->cjkl", members, tally),
        }
        draws = {s: _draw_dirichlet(rng, c) for s, c in counts.items()}
        logits = np.log(draws["prevalence"])[:, None]
        logits = logits + np.einsum("ijl,cjkl->cik", tally, np.log(draws["confusion"]))
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        z = (probs.cumsum(-1) < rng.random((*z.shape, 1))).sum(-1)
        if sweep < num_sweeps // 10:
            continue
        parts = {"z": probs}
        for site, count in counts.items():
            total = count.sum(-1, keepdims=True)
            parts[site] = count / total
            parts[site + " squared"] = count * (count + 1) / (total * (total + 1))
        sums = {s: v.sum(0) for s, v in parts.items()}
        totals = sums if totals is None else {s: totals[s] + sums[s] for s in sums}
        by_chain.append(parts["prevalence"])
    mean = {s: v / (len(by_chain) * num_chains) for s, v in totals.items()}
    chains = np.array(by_chain)  # (sweep, chain, class)
    spread = chains.mean(0).var(0, ddof=1)
    rhat = np.sqrt(1 + spread / chains.var(0).mean(0)).max()
    sd = {s: np.sqrt(mean[s + " squared"] - mean[s] ** 2) for s in counts}
    return {
        "mean": {s: np.round(mean[s], 6).tolist() for s in counts},
        "sd": {s: np.round(sd[s], 6).tolist() for s in counts},
        "probs": {"z": np.round(mean["z"], 6).tolist()},
        "origin": f"Gibbs, {num_chains} chains of {len(by_chain):,} sweeps after "
        f"{num_sweeps // 10} dropped, Rao-Blackwellised; R-hat of the prevalences at "
        f"most {rhat:.5f}; their standard errors at most "
        f"{np.sqrt(spread / num_chains).max():.1e} (data/make_references.py).",
    }


def _component_terms(
    logit: jax.Array, mu: jax.Array, sigma: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return (
        log_sigmoid(logit) + norm.logpdf(y, mu[0], sigma[0]),
        log_sigmoid(-logit) + norm.logpdf(y, mu[1], sigma[1]),
    )


def _draw_dirichlet(rng: np.random.Generator, concentration: np.ndarray) -> np.ndarray:
    gamma = rng.standard_gamma(concentration)
    return gamma / gamma.sum(-1, keepdims=True)


def main() -> None:
    """Computes and writes the files."""
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    waiting = np.loadtxt(DATA / "old_faithful.csv", delimiter=",", skiprows=1)[:, 1]
    rows = np.loadtxt(DATA / "gauss_mix.csv", skiprows=1)
    steps = np.loadtxt(DATA / "hidden_markov.csv", skiprows=1)
    references = {
        "old_faithful": integrate(old_faithful, [-0.5, 55.0, 3.2, 1.8, 1.8], waiting),
        "gauss_mix": integrate(gauss_mix, [0.5, 0.1, 1.7, 0.0, 0.0], rows),
        "hidden_markov": integrate(hidden_markov, [0.7, 2.5, 3.0, 8.8], steps),
        "anaesthetists": anaesthetists(),
    }
    for name, reference in references.items():
        path = DATA / f"{name}_reference.json"
        path.write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()
