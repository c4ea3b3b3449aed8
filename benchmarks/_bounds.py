r"""The bound of a mean-field Gaussian, computed the same way whoever fitted it.

For $q(u) = \prod_d N(u_d; m_d, s_d^2)$ in NumPyro's unconstrained space,
$-\mathrm{ELBO} = E_q[U(u)] - \sum_d \log s_d - \frac{D}{2}\log 2\pi e$ with $U$ the
potential energy. All fits are judged on the same standard normal draws, so their
differences are sharper than each bound's standard error.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.infer.util import potential_energy, unconstrain_fn

from benchmarks._report import Figure

Sites = Mapping[str, jax.Array]


def mean_field_bound(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    loc: Sites,
    scale: Sites,
    num_draws: int = 20_000,
) -> Figure:
    """$-$ELBO of the mean-field Gaussian with these unconstrained moments.

    Args:
        model: NumPyro model whose latent sites are all continuous.
        data: Arguments of the model, by name.
        loc: For each site, the mean of its unconstrained value.
        scale: For each site, the standard deviations.
        num_draws: Draws of the estimate.
    """
    keys = {
        site: jax.random.fold_in(jax.random.key(7), i)
        for i, site in enumerate(sorted(loc))
    }

    def potential(index: jax.Array) -> jax.Array:
        values = {
            site: jnp.asarray(loc[site])
            + jnp.asarray(scale[site])
            * jax.random.normal(jax.random.fold_in(key, index), jnp.shape(loc[site]))
            for site, key in keys.items()
        }
        return potential_energy(model, (), data, values)

    energies = jax.jit(jax.vmap(potential))(jnp.arange(num_draws))
    entropy = sum(
        jnp.sum(jnp.log(s)) + 0.5 * jnp.size(s) * jnp.log(2 * jnp.pi * jnp.e)
        for s in map(jnp.asarray, scale.values())
    )
    error = jnp.std(energies) / jnp.sqrt(num_draws)
    return Figure(float(jnp.mean(energies) - entropy), mcse=float(error))


def unconstrained_moments(
    model: Callable[..., Any], data: Mapping[str, Any], draws: Sites
) -> tuple[Sites, Sites]:
    """Mean and standard deviation of draws in unconstrained space, by site.

    Recovers a mean-field Gaussian from its draws; `S` draws put the bound at most
    about `D / S` nats too high.
    """

    def unconstrain(values: Sites) -> Sites:
        return unconstrain_fn(model, (), data, values)

    values = jax.jit(jax.vmap(unconstrain))(draws)
    return jax.tree.map(lambda v: v.mean(0), values), jax.tree.map(
        lambda v: v.std(0), values
    )
