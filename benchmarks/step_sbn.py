"""Does a score-function step of bbvi cost what a hand-written one costs?

Sigmoid belief network on all 1,797 digits, 4 particles, leave-one-out baseline and
Rao-Blackwellisation by image: an image's `log q`, summed over its units, times that
image's cost. All sides in one process, compiled before the clock starts; beside
leave-one-out the control variate that bbvi chooses by itself.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax

from benchmarks import _sbn
from benchmarks._report import Row
from benchmarks._timing import Loss, build_steps, interleave

NUM_PARTICLES, NUM_STEPS, RATE = 4, 50, 3e-3


def run(repeats: int = 31) -> list[Row]:
    """Microseconds a step."""
    builders = {
        "bbvi.loss": functools.partial(build_ours, "LeaveOneOut"),
        "bbvi.loss, antithetic": functools.partial(build_ours, "Antithetic"),
        "jax floor": functools.partial(build_floor, _sbn.log_bernoulli),
        "jax floor, NumPyro's density": functools.partial(
            build_floor, numpyro_log_prob
        ),
    }
    figures = interleave(builders, repeats)
    ours = figures.pop("bbvi.loss")
    targets = {"jax floor": 1.05}
    return [
        Row("step_sbn", "us a step", "bbvi.loss", ours, rival, figure, target)
        for rival, figure in figures.items()
        for target in [targets.get(rival)]
    ]


def build_ours(control: str) -> Callable[[], float]:
    """The step from `bbvi.loss`, the control variate asked for by name."""
    import bbvi
    from bbvi import estimators

    asked = estimators.ScoreFunction(control_variate=getattr(estimators, control)())
    plan = bbvi.plan(
        _sbn.model,
        _sbn.data(),
        guide=_sbn.guide,
        estimators={"z": asked},
        num_particles=NUM_PARTICLES,
    )
    params = plan.init(jax.random.key(0))
    return build_steps(
        bbvi.loss(plan), params, _sbn.data(), optax.adam(RATE), NUM_STEPS
    )


def build_floor(log_prob: _sbn.LogProb) -> Callable[[], float]:
    """The step written by hand."""
    loss, data = floor_loss(log_prob), _sbn.data()
    return build_steps(loss, _sbn.start(), data, optax.adam(RATE), NUM_STEPS)


def numpyro_log_prob(logits: jax.Array, value: jax.Array) -> jax.Array:
    """Log density as NumPyro computes it, with its guards against infinite logits."""
    return dist.Bernoulli(logits=logits).log_prob(value)


def floor_loss(log_prob: _sbn.LogProb = _sbn.log_bernoulli) -> Loss:
    r"""$-$ELBO, with the score-function gradient of the guide's parameters.

    With $f_s = \log p - \log q$ of particle $s$ and an image, the surrogate is
    $\frac1S \sum_s \log p + (f_s - \bar f_{-s}) \log q$ and
    $f_s - \bar f_{-s} = \frac{S}{S-1} (f_s - \bar f)$.
    """
    rescale = NUM_PARTICLES / (NUM_PARTICLES - 1)

    def loss(
        params: dict[str, jax.Array], key: jax.Array, data: dict[str, jax.Array]
    ) -> tuple[jax.Array, None]:
        log_p, log_q = _sbn.log_terms(params, key, data["x"], NUM_PARTICLES, log_prob)
        cost = jax.lax.stop_gradient(log_p - log_q)
        gain = (cost - cost.mean(0)) * rescale
        surrogate = jnp.sum(log_p + gain * log_q) / NUM_PARTICLES
        value = jnp.sum(cost) / NUM_PARTICLES
        return -(value + surrogate - jax.lax.stop_gradient(surrogate)), None

    return loss
