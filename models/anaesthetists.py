r"""Five anaesthetists and 45 patients: ratings without a truth (Dawid and Skene).

Each patient has an unknown fitness class, 0 (fit for anaesthesia) to 3 (unfit), and
each anaesthetist a table of confusions, from the true class to the rated one:

$$\pi \sim \mathrm{Dirichlet}(1, 1, 1, 1), \quad
\beta_{jk} \sim \mathrm{Dirichlet}(1 + 4 e_k), \quad
z_i \sim \mathrm{Categorical}(\pi), \quad
y_{im} \sim \mathrm{Categorical}(\beta_{j(m) z_i}),$$

where $e_k$ is the $k$-th unit vector, so that a rating is taken to be right more often
than not and the classes cannot change their labels. The seven ratings $m$ of a patient
are three by the first anaesthetist and one by each of the others.

Data: Dawid and Skene (1979), "Maximum likelihood estimation of observer error-rates
using the EM algorithm", Applied Statistics 28, table 1. In the zoo for a discrete
latent of four values used as an index, below seven observations that are not a plate.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

DATA = Path(__file__).parent / "data"
NUM_RATERS, NUM_CLASSES = 5, 4


def model(rater: Array, rating: Array | None = None, num_patients: int = 45) -> None:
    """Ratings through one table of confusions an anaesthetist.

    Args:
        rater: who gives each of a patient's ratings, `(num_ratings,)`.
        rating: the classes given, `(num_patients, num_ratings)`.
        num_patients: how many to draw where there are no data.
    """
    prevalence = numpyro.sample("prevalence", dist.Dirichlet(jnp.ones(NUM_CLASSES)))
    concentration = 1.0 + 4.0 * jnp.eye(NUM_CLASSES)
    raters = numpyro.plate("raters", NUM_RATERS, dim=-2)
    with raters, numpyro.plate("classes", NUM_CLASSES, dim=-1):
        confusion = numpyro.sample("confusion", dist.Dirichlet(concentration))
    with numpyro.plate("patients", num_patients if rating is None else len(rating)):
        z = numpyro.sample("z", dist.Categorical(prevalence))
        probs = confusion[rater, z[:, None]]  # (patient, rating, class)
        numpyro.sample("rating", dist.Categorical(probs).to_event(1), obs=rating)


def data() -> dict[str, np.ndarray]:
    """The 45 by 7 ratings, and who gave them, both counted from 0."""
    table = np.loadtxt(DATA / "anaesthetists.csv", delimiter=",", skiprows=1, dtype=int)
    return {"rater": np.array([0, 0, 0, 1, 2, 3, 4]), "rating": table[:, 1:] - 1}


def reference() -> dict:
    """Moments and class probabilities from a long Gibbs run."""
    stored = json.loads((DATA / "anaesthetists_reference.json").read_text())
    return {
        "mean": {site: np.array(v) for site, v in stored["mean"].items()},
        "sd": {site: np.array(v) for site, v in stored["sd"].items()},
        "probs": {"z": np.array(stored["probs"]["z"])},
        "origin": stored["origin"],
    }
