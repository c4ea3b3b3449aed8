"""When did the rate change? British coal-mining disasters, 1851 to 1962.

The year of the change is discrete and every observation depends on it. It stays a plain
`numpyro.sample` statement: bbvi sums it out of the model and draws it afterwards from
its exact conditional.

Data: Jarrett (1979), A note on the intervals between coal-mining disasters, Biometrika
66, as yearly counts in Carlin, Gelfand and Smith (1992), Applied Statistics 41.
"""

# %% The model and its data
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bbvi

COUNTS = (
    "45410434063340263354531441553425223421322111130010110031"
    "03220111010100021000110233112111124200014000100000100101"
)
FIRST = 1851


def model(year, disasters=None):
    """Yearly counts with one change of the rate."""
    switch = numpyro.sample("switch", dist.DiscreteUniform(FIRST, 1962))
    early = numpyro.sample("early", dist.Exponential(1.0))
    late = numpyro.sample("late", dist.Exponential(1.0))
    rate = jnp.where(year < switch, early, late)
    with numpyro.plate("years", len(year)):
        numpyro.sample("disasters", dist.Poisson(rate), obs=disasters)


def data():
    """The 112 years and their counts."""
    disasters = np.array([int(digit) for digit in COUNTS])
    return {"year": FIRST + np.arange(len(disasters)), "disasters": disasters}


# %% What will be done, before anything is fitted
def main(num_steps=50_000):
    """Plan, fit, and the distribution of the year."""
    plan = bbvi.plan(model, data())
    print(plan)

    # %% The fit, with its verdict
    fit = bbvi.fit(model, data(), max_steps=num_steps, progress=False)
    print(fit)

    # %% The likeliest years of the change
    switch = fit.draws(4_000)["switch"]
    years, times = np.unique(switch, return_counts=True)
    for year, share in zip(years, times / len(switch), strict=True):
        if share > 0.02:
            print(f"{year}  {share:.2f}  {'#' * round(60 * share)}")
    return fit


# %%
if __name__ == "__main__":
    main()
