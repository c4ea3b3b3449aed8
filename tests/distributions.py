"""Every distribution of NumPyro: what it is as a latent and as a factor of a guide.

A `Row` holds parameters at which the distribution is made, and what bbvi does with it.
`ROWS` must hold every exported name, so that one that NumPyro adds is classified before
the tests pass. `docs/explanation/distributions.md` shows the same table;
``python -m tests.distributions`` prints it.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

LATENT = {
    "normal": "a normal after a transform",
    "summed": "summed out",
    "counts": "negative binomial, scored",
    "binomial": "binomial with the same bounds, scored",
    "multinomial": "multinomial with the same total, scored",
    "refused": "refused",
}
FACTOR = {
    "pathwise": "pathwise",
    "implicit": "pathwise, implicit",
    "circle": "pathwise where the model is periodic in it, else scored",
    "local": "summed under q",
    "score": "scored",
    "moving": "pathwise, never scored: its support moves",
    "point": "pathwise, a point mass",
    "refused": "refused",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One distribution.

    Attributes:
        name: As NumPyro exports it.
        latent: A key of `LATENT`.
        factor: A key of `FACTOR`.
        params: Constrained values of the parameters.
        fixed: Other arguments.
        make: Of the distribution, where its arguments are not plain parameters.
        kind: Where the rows of a name differ.
        within: Constraints of parameters that the class does not state.
        words: Of the refusals, `(latent's, factor's)`.
    """

    name: str
    latent: str = "normal"
    factor: str = "pathwise"
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    make: Callable[..., dist.Distribution] | None = None
    kind: str = ""
    within: Mapping[str, constraints.Constraint] = dataclasses.field(
        default_factory=dict
    )
    words: tuple[str, str] = ("", "")

    @property
    def key(self) -> str:
        return f"{self.name} {self.kind}".strip()

    def __call__(self, **params: Any) -> dist.Distribution:
        given = {**self.params, **params, **self.fixed}
        return (self.make or getattr(dist, self.name))(**given)

    def constraint(self, param: str) -> constraints.Constraint:
        if param in self.within:
            return self.within[param]
        made = self()
        stated = type(made).arg_constraints.get(param, constraints.real)
        return constraints.real if constraints.is_dependent(stated) else stated


positive, real, unit = constraints.positive, constraints.real, constraints.unit_interval
TRIL = np.array([[0.9, 0.0], [0.4, 0.7]], np.float32)
COV = TRIL @ TRIL.T
CORRELATION = np.array([[1.0, 0.5], [0.5, 1.0]], np.float32)
NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
TWO = np.array([0.4, -0.3], np.float32)
WEIGHTS = np.array([0.2, 0.5, 0.3], np.float32)
COUNTS = np.array([3, 5, 2])


def mixture(weights, components):
    return dist.Mixture(dist.Categorical(probs=weights), components)


def normals(weights, loc, scale):
    return mixture(weights, dist.Normal(loc, scale))


def students(weights, loc, df):
    return mixture(weights, dist.StudentT(df, loc, 1.0))


def unlike(weights, loc, rate):
    return mixture(weights, [dist.LogNormal(loc, 0.5), dist.Gamma(2.0, rate)])


def drift(x, t):
    return -x, 0.5 * jnp.ones_like(x)


def row(name, params=None, **changes):
    return Row(name, params=params or {}, **changes)


def finite(name, params, **changes):
    return row(name, params, latent="summed", factor="local", **changes)


def count(name, params, **changes):
    return row(name, params, latent="counts", factor="score", **changes)


LOCATION = {"loc": 0.3, "scale": 0.8}
SHAPE = {"concentration": 1.7, "rate": 0.8}
INTERVAL = {"low": -0.4, "high": 1.6}
THREE = np.array([0.3, -0.2, 0.5], np.float32)
SIMPLEX = np.array([1.2, 0.7, 2.0], np.float32)
ATOM = "is 0 itself with positive probability"
SEEN = "has censoring, which is for observations"
UNIT = {"probs": unit}
SCALE, SHAPES = {"scale": positive}, {"concentration": positive, "rate": positive}
MIXED = {"weights": constraints.simplex, "scale": positive, "df": positive}
MIXED |= {"rate": positive}


def truncated(kind, base=dist.Normal, **bounds):
    def make(low=None, high=None, **params):
        return getattr(dist, kind)(
            base(**params), *(b for b in (low, high) if b is not None), **bounds
        )

    return make


ONE_DIMENSIONAL = (
    row("AsymmetricLaplace", {**LOCATION, "asymmetry": 1.4}),
    row("AsymmetricLaplaceQuantile", {**LOCATION, "quantile": 0.4}),
    row("Beta", {"concentration1": 1.7, "concentration0": 2.3}),
    row("BetaProportion", {"mean": 0.4, "concentration": 3.5}),
    row("Cauchy", LOCATION),
    row("Chi2", {"df": 3.5}),
    row("Dagum", {"concentration": 1.2, "sharpness": 2.5, "scale": 0.8}),
    row(
        "DoublyTruncatedPowerLaw",
        {"alpha": -1.7},
        fixed={"low": 0.6, "high": 2.9},
        kind="(fixed bounds)",
    ),
    row("Exponential", {"rate": 1.3}),
    row(
        "FoldedDistribution",
        LOCATION,
        make=lambda **p: dist.FoldedDistribution(dist.Normal(**p)),
        within=SCALE,
    ),
    row("Gamma", SHAPE),
    row("Gompertz", SHAPE),
    row("Gumbel", LOCATION),
    row("HalfCauchy", {"scale": 0.8}),
    row("HalfNormal", {"scale": 0.8}),
    row("InverseGamma", {"concentration": 2.7, "rate": 1.3}),
    row("Kumaraswamy", {"concentration1": 1.7, "concentration0": 2.3}),
    row("Laplace", LOCATION),
    row("Levy", {"scale": 0.8}, fixed={"loc": 0.3}, kind="(fixed loc)"),
    row("LogNormal", LOCATION),
    row("Logistic", LOCATION),
    row("Normal", LOCATION),
    row(
        "RelaxedBernoulli",
        {"logits": 0.4, "temperature": 0.7},
        within={"temperature": positive},
    ),
    row(
        "RelaxedBernoulliLogits",
        {"logits": 0.4, "temperature": 0.7},
        within={"temperature": positive},
    ),
    row("SoftLaplace", LOCATION),
    row("StudentT", {"df": 3.5, **LOCATION}),
    row("Weibull", {"scale": 0.8, "concentration": 1.7}),
    row(
        "TransformedDistribution",
        LOCATION,
        make=lambda **p: dist.TransformedDistribution(
            dist.Normal(**p), dist.transforms.SigmoidTransform()
        ),
        within=SCALE,
        kind="of a Normal",
    ),
    row(
        "TruncatedNormal",
        LOCATION,
        fixed={"low": -0.2, "high": 1.1},
        within=SCALE,
        kind="(fixed bounds)",
    ),
    row(
        "TruncatedGamma",
        SHAPE,
        fixed={"low": 0.4, "high": 2.5},
        within=SHAPES,
        kind="(fixed bounds)",
    ),
)
MOVING = (
    row("Uniform", INTERVAL, factor="moving"),
    row("LogUniform", {"low": 0.4, "high": 2.6}, factor="moving"),
    row("Pareto", {"scale": 0.8, "alpha": 2.5}, factor="moving"),
    row("Levy", LOCATION, factor="moving"),
    row("LowerTruncatedPowerLaw", {"alpha": -2.5, "low": 0.6}, factor="moving"),
    row(
        "LeftTruncatedDistribution",
        {**LOCATION, "low": -0.2},
        make=truncated("LeftTruncatedDistribution"),
        within=SCALE,
        factor="moving",
    ),
    row(
        "RightTruncatedDistribution",
        {**LOCATION, "high": 1.1},
        make=truncated("RightTruncatedDistribution"),
        within=SCALE,
        factor="moving",
    ),
    row(
        "TwoSidedTruncatedDistribution",
        {**LOCATION, "low": -0.2, "high": 1.1},
        make=truncated("TwoSidedTruncatedDistribution"),
        within=SCALE,
        factor="moving",
    ),
    row(
        "TruncatedDistribution",
        {**LOCATION, "low": -0.2},
        make=lambda low, **p: dist.TruncatedDistribution(dist.Laplace(**p), low=low),
        within=SCALE,
        factor="moving",
    ),
    row("TruncatedCauchy", {**LOCATION, "low": -0.2}, within=SCALE, factor="moving"),
    row(
        "LeftTruncatedGamma",
        {**SHAPE, "low": 0.4},
        make=truncated("LeftTruncatedGamma", dist.Gamma),
        within={**SHAPES, "low": positive},
        factor="moving",
    ),
    row(
        "RightTruncatedGamma",
        {**SHAPE, "high": 2.5},
        make=truncated("RightTruncatedGamma", dist.Gamma),
        within={**SHAPES, "high": positive},
        factor="moving",
    ),
    row(
        "TwoSidedTruncatedGamma",
        {**SHAPE, "low": 0.4, "high": 2.5},
        make=truncated("TwoSidedTruncatedGamma", dist.Gamma),
        within={**SHAPES, "low": positive, "high": positive},
        factor="moving",
    ),
)
IMPLICIT = (
    row(
        "MixtureSameFamily",
        {"weights": WEIGHTS, "loc": THREE, "scale": SIMPLEX},
        make=normals,
        within=MIXED,
        factor="implicit",
        kind="of Normals",
    ),
    row(
        "MixtureGeneral",
        {"weights": WEIGHTS[:2] / WEIGHTS[:2].sum(), "loc": 0.3, "rate": 0.8},
        make=unlike,
        within=MIXED,
        factor="implicit",
        kind="of a LogNormal and a Gamma",
    ),
    row(
        "Mixture",
        {"weights": WEIGHTS, "rate": SIMPLEX},
        make=lambda weights, rate: mixture(weights, dist.Exponential(rate)),
        within=MIXED,
        factor="implicit",
        kind="of Exponentials",
    ),
    row("VonMises", {"loc": 0.3, "concentration": 1.7}, factor="circle"),
)
SCORED = (
    row(
        "MixtureSameFamily",
        {"weights": WEIGHTS, "loc": THREE, "df": SIMPLEX},
        make=lambda weights, loc, df: mixture(weights, dist.StudentT(df, loc, 1.0)),
        within=MIXED,
        factor="score",
        kind="of StudentTs",
    ),
    row(
        "HurdleGamma",
        {"gate": 0.3, **SHAPE},
        within=SHAPES,
        latent="refused",
        factor="score",
        words=(ATOM, ""),
    ),
    row(
        "HurdleLogNormal",
        {"gate": 0.3, **LOCATION},
        within=SCALE,
        latent="refused",
        factor="score",
        words=(ATOM, ""),
    ),
)
VECTORS = (
    row(
        "CAR",
        {"loc": THREE, "correlation": 0.4, "conditional_precision": 1.3},
        fixed={"adj_matrix": NEIGHBOURS},
        within={"correlation": unit},
    ),
    row(
        "CirculantNormal",
        {"loc": THREE},
        fixed={"covariance_row": np.array([1.0, 0.3, 0.3], np.float32)},
        within={"loc": constraints.real_vector},
    ),
    row("Dirichlet", {"concentration": SIMPLEX}),
    row(
        "EulerMaruyama",
        LOCATION,
        make=lambda loc, scale: dist.EulerMaruyama(
            np.linspace(0, 1, 4), drift, dist.Normal(loc, scale)
        ),
        within=SCALE,
    ),
    row(
        "EulerMaruyama",
        {"weights": WEIGHTS, "loc": THREE, "scale": SIMPLEX},
        make=lambda **p: dist.EulerMaruyama(np.linspace(0, 1, 4), drift, normals(**p)),
        within=MIXED,
        factor="score",
        kind="from a mixture",
    ),
    row(
        "GaussianCopula",
        LOCATION,
        make=lambda loc, scale: dist.GaussianCopula(
            dist.Normal(loc * jnp.ones(2), scale), CORRELATION
        ),
        within=SCALE,
        kind="of Normals",
    ),
    row("GaussianRandomWalk", {"scale": 0.8}, fixed={"num_steps": 3}),
    row(
        "GaussianStateSpace",
        {"scale_tril": TRIL},
        fixed={"num_steps": 3, "transition_matrix": 0.5 * np.eye(2)},
    ),
    row(
        "Independent",
        {"loc": THREE, "scale": 0.8},
        make=lambda **p: dist.Normal(**p).to_event(1),
        within=SCALE,
    ),
    row(
        "ExpandedDistribution",
        LOCATION,
        make=lambda **p: dist.Normal(**p).expand([3]),
        within=SCALE,
    ),
    row(
        "MaskedDistribution",
        {"loc": THREE, "scale": 0.8},
        make=lambda **p: dist.Normal(**p).mask(np.array([True, False, True])),
        within=SCALE,
    ),
    row(
        "InverseWishart",
        {"concentration": 4.5, "scale_tril": TRIL},
        within={"concentration": constraints.greater_than(1.0)},
    ),
    row(
        "InverseWishartCholesky",
        {"concentration": 4.5, "scale_tril": TRIL},
        within={"concentration": constraints.greater_than(1.0)},
    ),
    row("LKJ", {"concentration": 1.7}, fixed={"dimension": 3}),
    row("LKJCholesky", {"concentration": 1.7}, fixed={"dimension": 3}),
    row(
        "LKJCholesky",
        {"concentration": 1.7},
        fixed={"dimension": 3, "sample_method": "cvine"},
        kind="(cvine)",
    ),
    row(
        "LowRankMultivariateNormal",
        {"loc": TWO, "cov_factor": TRIL[:, :1], "cov_diag": np.abs(TWO)},
    ),
    row(
        "MatrixNormal",
        {"loc": np.ones((2, 2), np.float32), "scale_tril_row": TRIL},
        fixed={"scale_tril_column": TRIL},
    ),
    row("MultivariateNormal", {"loc": TWO, "scale_tril": TRIL}),
    row("MultivariateStudentT", {"df": 3.5, "loc": TWO, "scale_tril": TRIL}),
    row(
        "ProjectedNormal",
        {"concentration": SIMPLEX},
        latent="refused",
        words=("numpyro.infer.reparam.ProjectedNormalReparam", ""),
    ),
    row(
        "Wishart",
        {"concentration": 4.5, "scale_tril": TRIL},
        within={"concentration": constraints.greater_than(1.0)},
    ),
    row(
        "WishartCholesky",
        {"concentration": 4.5, "scale_tril": TRIL},
        within={"concentration": constraints.greater_than(1.0)},
    ),
    row("ZeroSumNormal", {"scale": 0.8}, fixed={"event_shape": (3,)}),
    row("TruncatedPolyaGamma"),
    row(
        "SineBivariateVonMises",
        {"phi_loc": 0.3, "psi_loc": -0.4},
        fixed={
            "phi_concentration": 2.0,
            "psi_concentration": 1.5,
            "correlation": 0.5,
        },
        factor="score",
    ),
    row(
        "SineSkewed",
        {"skewness": 0.3 * TWO},
        make=lambda skewness: dist.SineSkewed(
            dist.VonMises(TWO, np.ones(2, np.float32)).to_event(1), skewness
        ),
        factor="score",
    ),
)
FINITE = (
    finite("Bernoulli", {"logits": 0.4}, within={"logits": real}),
    finite("BernoulliLogits", {"logits": 0.4}),
    finite("BernoulliProbs", {"probs": 0.4}),
    finite(
        "Binomial", {"probs": 0.4}, fixed={"total_count": 4}, within={"probs": unit}
    ),
    finite("BinomialLogits", {"logits": 0.4}, fixed={"total_count": 4}),
    finite("BinomialProbs", {"probs": 0.4}, fixed={"total_count": 4}),
    finite(
        "BetaBinomial",
        {"concentration1": 1.7, "concentration0": 2.3},
        fixed={"total_count": 4},
    ),
    finite("Categorical", {"probs": WEIGHTS}, within={"probs": constraints.simplex}),
    finite("CategoricalLogits", {"logits": THREE}),
    finite("CategoricalProbs", {"probs": WEIGHTS}),
    finite("DiscreteUniform", {}, fixed={"low": 2, "high": 5}),
    finite("OrderedLogistic", {"predictor": 0.4}, fixed={"cutpoints": TWO[::-1]}),
    finite(
        "ZeroInflatedDistribution",
        {"gate": 0.3, "probs": 0.4},
        make=lambda gate, probs: dist.ZeroInflatedDistribution(
            dist.Binomial(4, probs), gate=gate
        ),
        within={"gate": unit, "probs": unit},
        kind="of a Binomial",
    ),
)
COUNTABLE = (
    count(
        "BetaNegativeBinomial",
        {"concentration1": 3.7, "concentration0": 2.3, "n": 3.0},
    ),
    count("GammaPoisson", SHAPE),
    count("Geometric", {"probs": 0.4}, within={"probs": unit}),
    count("GeometricLogits", {"logits": 0.4}),
    count("GeometricProbs", {"probs": 0.4}),
    count(
        "NegativeBinomial",
        {"total_count": 3.0, "probs": 0.4},
        within={"total_count": positive, "probs": unit},
    ),
    count("NegativeBinomial2", {"mean": 1.7, "concentration": 2.3}),
    count("NegativeBinomialLogits", {"total_count": 3.0, "logits": 0.4}),
    count("NegativeBinomialProbs", {"total_count": 3.0, "probs": 0.4}),
    count("Poisson", {"rate": 1.7}),
    count("HurdlePoisson", {"gate": 0.3, "rate": 1.7}, within={"rate": positive}),
    count(
        "HurdleNegativeBinomial2",
        {"gate": 0.3, "mean": 1.7, "concentration": 2.3},
        within={"gate": unit, "mean": positive, "concentration": positive},
    ),
    count(
        "HurdleDistribution",
        {"gate": 0.3, "rate": 1.7},
        make=lambda gate, rate: dist.HurdleDistribution(dist.Poisson(rate), gate=gate),
        within={"gate": unit, "rate": positive},
        kind="of a Poisson",
    ),
    count(
        "HurdleLogits",
        {"gate_logits": 0.3, "rate": 1.7},
        make=lambda gate_logits, rate: dist.HurdleLogits(
            dist.Poisson(rate), gate_logits
        ),
        within={"rate": positive},
        kind="of a Poisson",
    ),
    count(
        "HurdleProbs",
        {"gate": 0.3, "rate": 1.7},
        make=lambda gate, rate: dist.HurdleProbs(dist.Poisson(rate), gate),
        within={"rate": positive},
        kind="of a Poisson",
    ),
    count("ZeroInflatedPoisson", {"gate": 0.3, "rate": 1.7}, within={"rate": positive}),
    count(
        "ZeroInflatedNegativeBinomial2",
        {"gate": 0.3, "mean": 1.7, "concentration": 2.3},
        within={"gate": unit, "mean": positive, "concentration": positive},
    ),
    count(
        "ZeroInflatedLogits",
        {"gate_logits": 0.3, "rate": 1.7},
        make=lambda gate_logits, rate: dist.ZeroInflatedLogits(
            dist.Poisson(rate), gate_logits
        ),
        within={"rate": positive},
        kind="of a Poisson",
    ),
    count(
        "ZeroInflatedProbs",
        {"gate": 0.3, "rate": 1.7},
        make=lambda gate, rate: dist.ZeroInflatedProbs(dist.Poisson(rate), gate),
        within={"rate": positive},
        kind="of a Poisson",
    ),
)
BOUNDED = (
    row(
        "Binomial",
        {"probs": 0.4},
        fixed={"total_count": COUNTS},
        within={"probs": unit},
        latent="binomial",
        factor="score",
        kind="(counts an array)",
    ),
    row(
        "BetaBinomial",
        {"concentration1": 1.7, "concentration0": 2.3},
        fixed={"total_count": COUNTS},
        latent="binomial",
        factor="score",
        kind="(counts an array)",
    ),
    row(
        "DiscreteUniform",
        fixed={"low": COUNTS - 1, "high": COUNTS + 2},
        latent="binomial",
        factor="score",
        kind="(bounds arrays)",
    ),
    row(
        "DirichletMultinomial",
        {"concentration": SIMPLEX},
        fixed={"total_count": 4},
        latent="multinomial",
        factor="score",
    ),
    row(
        "Multinomial",
        {"probs": WEIGHTS},
        fixed={"total_count": 4},
        within={"probs": constraints.simplex},
        latent="multinomial",
        factor="score",
    ),
    row(
        "MultinomialLogits",
        {"logits": THREE},
        fixed={"total_count": 4},
        latent="multinomial",
        factor="score",
    ),
    row(
        "MultinomialProbs",
        {"probs": WEIGHTS},
        fixed={"total_count": 4},
        latent="multinomial",
        factor="score",
    ),
)
NO_GUIDE = (
    row(
        "DoublyTruncatedPowerLaw",
        {"alpha": -1.7, "low": 0.6, "high": 2.9},
        factor="refused",
        words=("", "derivative of its log_prob in them is wrong"),
    ),
    row(
        "Delta",
        {"v": 0.3},
        latent="refused",
        factor="point",
        words=("is a point mass: write numpyro.deterministic", ""),
    ),
    row(
        "ImproperUniform",
        fixed={"support": positive, "batch_shape": (), "event_shape": ()},
        factor="refused",
        words=("", "cannot be drawn from"),
    ),
    row(
        "Unit",
        {"log_factor": 0.3},
        latent="refused",
        factor="refused",
        words=("write numpyro.factor", "write numpyro.factor"),
    ),
    *(
        row(
            name,
            LOCATION,
            make=lambda loc, scale, name=name, extra=extra: getattr(dist, name)(
                dist.Normal(loc, scale), *extra
            ),
            within=SCALE,
            latent="refused",
            factor="refused",
            words=(SEEN, SEEN),
        )
        for name, extra in {
            "LeftCensoredDistribution": (0,),
            "RightCensoredDistribution": (0,),
            "IntervalCensoredDistribution": (0, 0),
        }.items()
    ),
    row(
        "GaussianCopulaBeta",
        {"concentration1": TWO**2, "concentration0": SIMPLEX[:2]},
        fixed={"correlation_matrix": CORRELATION},
        latent="refused",
        factor="refused",
        words=("tensorflow_probability", "tensorflow_probability"),
    ),
)
GROUPS = {
    "one-dimensional": ONE_DIMENSIONAL,
    "moving": MOVING,
    "implicit": IMPLICIT,
    "scored": SCORED,
    "vectors": VECTORS,
    "finite": FINITE,
    "countable": COUNTABLE,
    "bounded": BOUNDED,
    "no guide": NO_GUIDE,
}
ROWS = tuple(row for rows in GROUPS.values() for row in rows)


def exported() -> set[str]:
    """Names of NumPyro's distributions, their abstract base left out."""
    listed = {n for n in dist.__all__ if callable(getattr(dist, n)) and n[0].isupper()}
    classes = {
        n
        for n, x in vars(dist).items()
        if inspect.isclass(x) and issubclass(x, dist.Distribution)
    }
    return (listed | classes) - {"Distribution"}


def markdown() -> str:
    """The table of the documentation."""
    lines = [
        "| distribution | latent of a model | factor of a guide |",
        "|---|---|---|",
    ]
    rows = sorted(ROWS, key=lambda row: row.key.lower())
    lines += [
        f"| `{row.name}`{' ' + row.kind if row.kind else ''} "
        f"| {LATENT[row.latent]} | {FACTOR[row.factor]} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201
