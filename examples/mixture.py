"""A mixture written twice: with its assignments, and with them summed by hand.

The first model has a discrete site for each row. bbvi sums these sites out by itself,
so both models have the same bound; the first one also gives draws of the assignments,
which a model that was summed by hand has lost.
"""

# %% The two models
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bbvi

SCALE = 0.8


def parts():
    """Weight of the second component, and both locations."""
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    middle = numpyro.sample("middle", dist.Normal(0.0, 3.0))
    gap = numpyro.sample("gap", dist.LogNormal(1.0, 0.5))
    return share, middle + gap * jnp.array([-0.5, 0.5])


def explicit(y):
    """A discrete latent for each row."""
    share, loc = parts()
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("y", dist.Normal(loc[z], SCALE), obs=y)


def by_hand(y):
    """The same density of `y`, without the latents."""
    share, loc = parts()
    weights = dist.Categorical(jnp.stack([1 - share, share]))
    with numpyro.plate("rows", len(y)):
        mixture = dist.MixtureSameFamily(weights, dist.Normal(loc, SCALE))
        numpyro.sample("y", mixture, obs=y)


def data(num_rows=600):
    """Rows of two components."""
    generator = np.random.default_rng(7)
    second = generator.random(num_rows) < 0.35
    return {"y": np.where(second, 2.5, -1.0) + SCALE * generator.normal(size=num_rows)}


# %% Two fits, one bound
def main(num_steps=50_000, num_rows=600):
    """Fit both, compare the bounds, look at the assignments."""
    options = {"max_steps": num_steps, "progress": False}
    rows = data(num_rows)
    first = bbvi.fit(explicit, rows, **options)
    second = bbvi.fit(by_hand, rows, **options)
    print(first.plan, "", first, sep="\n")
    print(f"\nELBO, assignments in the model  {first.elbo}")
    print(f"ELBO, summed by hand            {second.elbo}")

    # %% Only the first model knows which row belongs where
    z = first.draws(2_000)["z"]
    undecided = np.argsort(np.abs(z.mean(0) - 0.5))[:3]
    for row in undecided:
        print(f"y = {rows['y'][row]:5.2f}  second component {z[:, row].mean():.2f}")
    return first, second


# %%
if __name__ == "__main__":
    main()
