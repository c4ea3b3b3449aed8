"""Cold process: `bbvi.fit` with the mean-field guide on eight schools.

Reads the bound, k-hat and the verdict, and prints them as JSON.
"""

import json
import sys

import bbvi
from benchmarks._eight_schools import data, model


def main() -> None:
    """Fits, and prints what the fit says of itself."""
    fit = bbvi.fit(model, data(), guide=bbvi.guides.MeanField(), progress=False)
    said = {
        "elbo": float(fit.elbo.value),
        "khat": float(fit.khat),
        "verdict": str(fit.verdict),
        "status": str(fit.status),
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
