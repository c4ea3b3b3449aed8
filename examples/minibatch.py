"""A logistic regression that sees a hundred rows a step.

The plate's `subsample_size` is all that says so. Its scale is applied once to every
cost, all particles share the rows of a step, and bound, k-hat and draws at the end are
those of all rows.
"""

# %% The model: rows are taken by the plate's indices
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bbvi


def model(features, answer, batch_size):
    """Binary answers, `batch_size` of them a step."""
    num_rows, num_features = features.shape
    coef = numpyro.sample("coef", dist.Normal(0.0, 1.0).expand([num_features]))
    with numpyro.plate("rows", num_rows, subsample_size=batch_size) as rows:
        logits = jnp.sum(features[rows] * coef, 1)
        numpyro.sample("answer", dist.Bernoulli(logits=logits), obs=answer[rows])


def data(num_rows=2_000, batch_size=100):
    """Rows with three features, the last without effect."""
    generator = np.random.default_rng(5)
    features = generator.normal(size=(num_rows, 3))
    chance = 1 / (1 + np.exp(-features @ np.array([1.0, -0.5, 0.0])))
    answer = (generator.random(num_rows) < chance).astype(int)
    return {"features": features, "answer": answer, "batch_size": batch_size}


# %% The same fit by minibatches and by all rows
def main(num_steps=50_000, num_rows=2_000):
    """Fit twice."""
    for batch_size in (100, num_rows):
        rows = data(num_rows, batch_size)
        fit = bbvi.fit(model, rows, max_steps=num_steps, progress=False)
        coef = fit.draws(2_000)["coef"]
        print(f"{batch_size} rows a step: mean {coef.mean(0)}, sd {coef.std(0)}")
        print(fit, end="\n\n")
    return fit


# %%
if __name__ == "__main__":
    main()
