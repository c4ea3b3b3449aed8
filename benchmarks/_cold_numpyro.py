"""Cold process: NumPyro's `SVI.run` with `AutoNormal` on eight schools.

5,000 Adam steps, no progress bar (one `lax.scan`). Prints the moments as JSON.
"""

import json
import sys

import jax
import numpy as np
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam

from benchmarks._eight_schools import SITES, data, model


def main() -> None:
    """Fits, and prints the moments."""
    svi = SVI(model, AutoNormal(model), Adam(0.01), Trace_ELBO())
    fitted = svi.run(jax.random.key(0), 5_000, progress_bar=False, **data())
    moments = {
        name: {s: np.asarray(fitted.params[f"{s}_auto_{name}"]).tolist() for s in SITES}
        for name in ("loc", "scale")
    }
    sys.stdout.write(json.dumps(moments) + "\n")


if __name__ == "__main__":
    main()
