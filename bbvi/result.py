"""`Fit`: the answer, with its status, its verdict and its draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from bbvi._counts import read_count
from bbvi._keys import read_key
from bbvi._types import Data, Key, Params, Values
from bbvi.analysis.arguments import by_name, read_arguments
from bbvi.covariance import Covariance, linear_response, of_draws
from bbvi.diagnostics import Estimate, Smoothed, psis, resampled
from bbvi.drawing import Draw, describe, predict
from bbvi.planning import Plan
from bbvi.programs import Programs
from bbvi.saving import flatten, write
from bbvi.verdict import Level, Status, Verdict

HISTORY = ("step", "elbo", "learning_rate", "start_elbos")
"""The arrays of a history that are not by site."""


@dataclass(frozen=True)
class History:
    """What happened, one entry a chunk of gradient steps, or a Newton step.

    Attributes:
        step: Steps done, `(num_entries,)`.
        elbo: Mean estimate of the bound over the chunk, or the bound after the step.
        learning_rate: In units of q's own standard deviations; 1 for a Newton step.
        snr: Signal-to-noise ratio of the gradient of each site's parameters; nan for a
            Newton step, and empty if there is nothing else.
        start_elbos: Estimates of the bound at the starts, `(num_starts,)`.
        note: Details of how it ended.
        path: The families, one after the other, each with its bound and k-hat.
    """

    step: NDArray[np.integer]
    elbo: NDArray[np.floating]
    learning_rate: NDArray[np.floating]
    snr: dict[str, NDArray[np.floating]]
    start_elbos: NDArray[np.floating]
    note: str = ""
    path: tuple[str, ...] = ()


class Live(NamedTuple):
    """What a fit needs to make draws: its plan, its programs and its data."""

    plan: Plan
    programs: Programs
    data: Data


@dataclass(frozen=True, repr=False, eq=False)
class Fit:
    """The answer of `bbvi.fit`; print it.

    Attributes:
        status: How the optimisation ended.
        verdict: Whether to trust it, why, and what to try next.
        params: Parameters of guide and model, unconstrained.
        history: Steps, bound, learning rate, gradient signal-to-noise ratios.
        elbo: The bound on the full data with its Monte-Carlo error.
        weights: Pareto-smoothed importance weights of the draws behind `elbo`.
        live: Makes new draws; None for a fit that was loaded without its plan.
        stored: The draws that came with a loaded fit, and what describes them.
        key: Key of the fit's draws.
    """

    status: Status
    verdict: Verdict
    params: Params
    history: History
    elbo: Estimate
    weights: Smoothed
    key: Key
    live: Live | None
    stored: dict[str, Any] | None = None

    @property
    def plan(self) -> Any:
        """The plan; of a loaded fit its text."""
        return self.live.plan if self.live else self.stored["plan"]

    @property
    def khat(self) -> float:
        """Pareto k-hat of the importance ratios of the whole posterior."""
        return self.weights.khat

    def draws(
        self, num_draws: int = 1_000, *, seed: Any = None, reweighted: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Draws from the posterior approximation.

        Args:
            num_draws: How many.
            seed: An int or a JAX key; default the fit's own draws.
            reweighted: Whether to resample twice as many draws by their
                Pareto-smoothed importance weights, as the verdict may recommend.

        Returns:
            ``{site: (num_draws, *site.shape)}``: latents and deterministics,
            constrained; discrete sites keep their integer dtype, and sites that were
            summed out are drawn from their exact conditional.

        Raises:
            ValueError: A loaded fit has fewer draws, or the weights are useless.
        """
        return self._sample(num_draws, seed, reweighted=reweighted).values

    def covariance(
        self, method: str = "draws", *, num_draws: int | None = None, seed: Any = None
    ) -> Covariance:
        """Covariances of the posterior, all pairs of elements.

        Args:
            method: ``"draws"`` of q, or ``"linear_response"``: a `MeanField` fit
                corrected for correlations, see `bbvi.covariance.linear_response`.
            num_draws: Draws, 4,000 by default, or points of noise.
            seed: An int or a JAX key.

        Returns:
            ``{a: {b: (*a.shape, *b.shape)}}``: of all float sites by draws, of the
            continuous latents by linear response; constrained.

        Raises:
            ValueError: The method is unknown, or linear response is not sound here.
        """
        if num_draws is not None:
            read_count("num_draws", num_draws)
        if method == "draws":
            return of_draws(self.draws(num_draws or 4_000, seed=seed))
        if method != "linear_response":
            known = "'draws' or 'linear_response'"
            raise ValueError(f"method must be {known}; found {method!r}")
        live, key = self._live("differentiate"), read_key(seed, self.key)
        if self.status is not Status.CONVERGED:
            raise ValueError(f"linear response needs an optimum. {self.status}")
        return linear_response(live.plan, self.params, live.data, key, num_draws)

    def _sample(
        self, num_draws: int, seed: Any, *, reweighted: bool, likelihood: bool = False
    ) -> Draw:
        num_draws = read_count("num_draws", num_draws)
        if self.live is None:
            made = self._stored_draws(num_draws)
        else:
            programs, key = self.live.programs, read_key(seed, self.key)
            times = -(-num_draws * (2 if reweighted else 1) // programs.batch)
            given = programs.sample, self.params, key, self.live.data
            made = programs.draws(*given, times, likelihood=likelihood)
        if reweighted:
            smoothed = psis(made.log_p - made.log_q)
            if not np.isfinite(smoothed.log_weights).any():
                raise ValueError("the importance weights are not finite: see verdict")
            rows = resampled(np.exp(smoothed.log_weights), num_draws)
        else:
            rows = np.arange(num_draws)
        return jax.tree.map(lambda x: x[rows], made)

    def _stored_draws(self, num_draws: int) -> Draw:
        made: Draw = self.stored["draw"]
        if num_draws > len(made.log_p):
            raise ValueError(
                f"the loaded fit has {len(made.log_p)} draws; found "
                f"num_draws={num_draws}. Save more of them, or load it with its plan: "
                f"bbvi.load(path, plan=bbvi.plan(model, data))"
            )
        return made

    def predict(
        self, data: Any = None, *, num_draws: int = 1_000, seed: Any = None
    ) -> dict[str, NDArray[Any]]:
        """Draws of the observed and deterministic sites, given draws of the latents.

        Args:
            data: Arguments of the model that differ from those of the fit; observed
                values among them are ignored. Default: those of the fit. Latents whose
                shape they change, such as the effects of new groups, are drawn from
                the model given the others.
            num_draws: How many.
            seed: An int or a JAX key.

        Returns:
            ``{site: (num_draws, *shape)}``.

        Raises:
            ValueError: A loaded fit has no model to predict with.
        """
        analysis = self._live("predict").plan.analysis
        drawn = self.draws(num_draws, seed=seed)
        latents = {name: drawn[name] for name in analysis.latents}
        made = self._from_model(data, latents, num_draws, seed)
        return {n: x for n, x in made.items() if n not in latents}

    def prior(
        self, data: Any = None, *, num_draws: int = 1_000, seed: Any = None
    ) -> dict[str, NDArray[Any]]:
        """Draws of all sites of the model before it has seen the observations.

        Args:
            data: As in `predict`.
            num_draws: How many.
            seed: An int or a JAX key.

        Returns:
            ``{site: (num_draws, *shape)}``; the model's own parameters at their fitted
            values.

        Raises:
            ValueError: A prior is improper, or a loaded fit has no model to draw from.
        """
        latents = self._live("draw").plan.analysis.latents
        flat = [n for n, s in latents.items() if s.distribution == "ImproperUniform"]
        if flat:
            raise ValueError(
                f"the prior of {', '.join(map(repr, flat))} is improper "
                f"(ImproperUniform), so there is nothing to draw from: give it a "
                f"proper one"
            )
        return self._from_model(data, {}, num_draws, seed)

    def _from_model(
        self, data: Any, latents: Values, num_draws: int, seed: Any
    ) -> dict[str, NDArray[Any]]:
        num_draws = read_count("num_draws", num_draws)
        plan = self.live.plan
        fitted = plan.analysis.arguments
        new = by_name(plan.analysis.model, data, partial=True)
        arguments = read_arguments(
            plan.analysis.model, {**fitted.join(fitted.arrays), **new}
        )
        key = jax.random.fold_in(read_key(seed, self.key), 1)

        @jax.jit
        def predicted(keys: Key, latents: Any, arrays: Data) -> Any:
            kwargs = arguments.bind(arrays)
            return jax.lax.map(
                lambda x: predict(plan, self.params, x[0], kwargs, x[1]),
                (keys, latents),
            )

        keys = jax.random.split(key, num_draws)
        return jax.device_get(predicted(keys, latents, arguments.arrays))

    def _live(self, verb: str) -> Live:
        if self.live is None:
            raise ValueError(
                f"a loaded fit has no model to {verb} with: load it with its plan, "
                f"bbvi.load(path, plan=bbvi.plan(model, data))"
            )
        return self.live

    def to_arviz(
        self,
        num_draws: int = 1_000,
        *,
        seed: Any = None,
        reweighted: bool = False,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
        posterior_predictive: bool = False,
        prior: bool = False,
    ) -> Any:
        """The fit as ArviZ data: `InferenceData` of 0.x, `DataTree` of 1.x.

        Args:
            num_draws: How many draws, as one chain.
            seed: An int or a JAX key.
            reweighted: See `draws`.
            coords: Labels along dimensions, such as a plate's.
            dims: Names of the axes of sites; default those of the plates.
            posterior_predictive: Whether to draw the observed sites anew as well.
            prior: Whether to draw all sites from the model's prior as well.

        Returns:
            Groups posterior, sample_stats (``log_p``, ``log_q``), log_likelihood,
            observed_data, constant_data and, if asked for, posterior_predictive,
            prior and prior_predictive.
        """
        from bbvi.export import to_arviz

        made = self._sample(num_draws, seed, reweighted=reweighted, likelihood=True)
        described = self.stored or describe(self.live.plan)
        predictive = None
        if posterior_predictive:
            predictive = self.predict(num_draws=num_draws, seed=seed)
            predictive = {n: predictive[n] for n in described["observed"]}
        before = self.prior(num_draws=num_draws, seed=seed) if prior else {}
        seen = described["observed"]
        return to_arviz(
            made.values,
            dims={} if dims is None else dims,
            plates=described["dims"],
            coords=coords,
            sample_stats={"log_p": made.log_p, "log_q": made.log_q},
            log_likelihood=made.log_likelihood or None,
            posterior_predictive=predictive,
            prior={n: x for n, x in before.items() if n not in seen} or None,
            prior_predictive={n: x for n, x in before.items() if n in seen} or None,
            observed_data=seen or None,
            constant_data=described["constant"] or None,
            attrs={
                "status": str(self.status),
                "verdict": str(self.verdict),
                "elbo": self.elbo.value,
                "khat": self.khat,
            },
        )

    def summary(self, num_draws: int = 4_000, *, seed: Any = None) -> Any:
        """A table of the posterior, one row an element, as the verdict recommends.

        Args:
            num_draws: Draws behind it.
            seed: An int or a JAX key.

        Returns:
            A data frame: mean, standard deviation, interval; for discrete sites the
            most frequent value and its probability. The draws are reweighted if the
            verdict says so.
        """
        from bbvi.export import summary

        if self.live is None:
            num_draws = min(read_count("num_draws", num_draws), self._num_available())
        reweighted = self.verdict.level is Level.REWEIGHT
        return summary(self.to_arviz(num_draws, seed=seed, reweighted=reweighted))

    def plot(self) -> Any:
        """A figure: the bound over the steps, the importance ratios, the marginals."""
        from bbvi.plots import plot_fit

        made = self._sample(self._num_available(), None, reweighted=False)
        return plot_fit(
            self.history.step,
            self.history.elbo,
            log_weights=made.log_p - made.log_q,
            draws=made.values,
            weights=self.weights,
            learning_rates=self.history.learning_rate,
        )

    def _num_available(self) -> int:
        return 1_000 if self.live else len(self.stored["draw"].log_p)

    def save(self, path: str | PathLike[str], *, num_draws: int = 1_000) -> None:
        """Write parameters, draws and what describes them to one ``.npz`` file.

        Args:
            path: Where; `bbvi.load` reads it. No pickle is involved.
            num_draws: Draws to keep with it.
        """
        made = self._sample(num_draws, None, reweighted=False, likelihood=True)
        described = self.stored or describe(self.live.plan)
        groups = {
            "values": made.values,
            "log_likelihood": made.log_likelihood,
            "observed": described["observed"],
            "constant": described["constant"],
            "snr": self.history.snr,
            "params": flatten(self.params),
            "history": {name: getattr(self.history, name) for name in HISTORY},
            "density": {"log_p": made.log_p, "log_q": made.log_q},
            "weights": {"log_weights": self.weights.log_weights},
            "key": {"data": np.asarray(jax.random.key_data(self.key))},
        }
        header = {
            "status": self.status.name,
            "verdict": [
                self.verdict.level.name,
                self.verdict.reason,
                self.verdict.remedy,
                self.verdict.note,
            ],
            "elbo": [self.elbo.value, self.elbo.mcse],
            "weights": [self.weights.khat, self.weights.ess],
            "note": self.history.note,
            "path": self.history.path,
            "plan": str(self.plan),
            "dims": described["dims"],
        }
        write(path, header, groups)

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"status   {self.status}",
                f"ELBO     {self.elbo}",
                f"k-hat    {self.khat:.2f}",
                f"verdict  {self.verdict}",
            ]
        )
