"""What is measured, and against whom: `python -m benchmarks [NAME ...]`.

Each benchmark module answers one question and has a `run(repeats)` that returns rows
of `benchmarks._report`: a figure of bbvi, the figure of a rival measured in the same
run, and the target of their ratio or difference. The rivals are hand-written JAX (the
floor) and NumPyro's own SVI. This module imports nothing, so that the cold processes
of `cold_eight_schools` pay only for what they use.
"""

NAMES = (
    "cold_eight_schools",
    "step_logistic",
    "step_sbn",
    "gauss_mix_elbo",
    "sbn_elbo",
    "sbn_estimators",
    "gradient_variance",
    "planning",
)
