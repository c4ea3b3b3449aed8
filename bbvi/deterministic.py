"""The host's side of the deterministic phase: where searches end, and how surely.

`Deterministic` sends every start up its bound, looks whether they ended in one place,
and goes there again with other noise until the average is known well enough. Where any
of this fails it says so, and the stochastic phase takes over.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from bbvi._types import Data, Key, Params
from bbvi.guides.base import Gaussian, continuous_of
from bbvi.guides.gaussian import by_site, flat_of
from bbvi.optimize.newton import CLOSE, HOPE, MAX_ITERATIONS, Search, noise
from bbvi.optimize.stopping import Limits
from bbvi.planning import Plan
from bbvi.programs import Programs
from bbvi.searching import MEMORY
from bbvi.verdict import Status

EXPLORED_TO = 1e-2
"""Nats that a step of a start that has arrived promises at most."""
NEAR = 1.0
"""Nats from one that has arrived at which those beside it need not do so, too."""
LANDED_TO = 1e-5
"""The same of a search that starts there, with noise of its own, for each dimension."""
CALLS = 3
"""Calls in which every start that matters must arrive."""
BEHIND = 50.0
"""Nats that a start may still gain at most."""
APART = 3.0
"""Distance between two places, see `Guide.distance`."""
FEWEST, ROUNDS = 4, 8
"""Fewest searches behind an average, and most rounds of them."""
ERROR = 0.03
"""Monte-Carlo error, in standard deviations of q, that is good enough."""
WORST = 0.05
"""The same after the last round, beyond which the answer is none."""


@dataclass
class Landing:
    """How the phase ended.

    Attributes:
        status: Converged, or the limit that was reached.
        params: The best member of the family.
        num_modes: Places where starts ended with about the same bound.
        error: Largest Monte-Carlo error of a mean or a standard deviation, and what
            is left to go, root mean square, in standard deviations of q.
    """

    status: Status
    params: Params
    num_modes: int
    error: float


@dataclass
class Deterministic:
    """The phase of one fit.

    Attributes:
        plan: Of the fit.
        programs: Of the plan, with a `newton`.
        data: Arguments of the model.
        key: Of the fit.
        limits: When to stop.
        deadline: Time at which to stop, see `time.monotonic`.
        before: Steps that the fit has made.
        elbos: The bound after each iteration so far.
        start_elbos: Where the starts are, `(num_starts,)`; nan where there is none.
        so_far: The best member so far, None before there is one.
        reached: Where starts got to, None where they have no finite bound.
    """

    plan: Plan
    programs: Programs
    data: Data
    key: Key
    limits: Limits
    deadline: float
    before: int
    elbos: list[float] = field(default_factory=list)
    start_elbos: Any = None
    so_far: Params | None = None
    reached: list[Params | None] = field(default_factory=list)

    def run(self, starts: list[Params], *, is_warm: bool) -> Landing | None:
        """Fit from some starts; None where Newton steps do not get there.

        Args:
            starts: Parameters, as many as the program has searches.
            is_warm: Whether they all are one and the same member.
        """
        words = np.asarray(jax.random.key_data(self.key)).ravel()
        self._generator = np.random.default_rng(words.tolist())
        self._like = starts[0]
        try:
            return self._landed(starts, is_warm=is_warm)
        except np.linalg.LinAlgError:  # a covariance that rounding made singular
            return None

    def _landed(self, starts: list[Params], *, is_warm: bool) -> Landing | None:
        explored = self._explore(starts, is_warm=is_warm)
        if explored is None:
            return None
        search, places = explored
        best, status = places[0], self._limit()
        if status:
            return Landing(status, self._member(search, best), len(places), np.inf)
        settled = self._settle(search.loc[best], search.scale[best])
        if settled is None:
            return None
        status, params, error = settled
        return Landing(status, params, len(places), error)

    def _explore(
        self, starts: list[Params], *, is_warm: bool
    ) -> tuple[Search, list[int]] | None:
        """Where starts end, and which of them are different places, the best first."""
        count = len(starts)
        given = [self._gaussian(params) for params in starts]
        loc = np.stack([flat_of(at.loc) for at in given])
        scale = np.stack([np.linalg.cholesky(at.covariance()) for at in given])
        points = np.repeat(self._noise(1), count, 0)
        active = np.arange(count) < (1 if is_warm else count)
        most, explored = MAX_ITERATIONS, (EXPLORED_TO, NEAR)
        if not is_warm and self._num_followed < count:
            first = self._call(loc, scale, points, active, 1, *explored)
            self._note(first, active)
            active[np.argsort(-first.elbo)[self._num_followed :]] = False
        for _ in range(CALLS):
            search = self._call(loc, scale, points, active, most, *explored)
            self._note(search, active)
            loc, scale = search.loc, np.stack([_tril(root) for root in search.scale])
            if not np.isfinite(search.elbo).any() or self._limit():
                break
            is_there = search.promised <= EXPLORED_TO
            best = int(np.argmax(np.where(is_there, search.elbo, -np.inf)))
            goal = search.elbo[best] - CLOSE
            hope = np.clip(HOPE * search.promised, 0.0, BEHIND)
            in_reach = active & (search.elbo + hope > goal)
            places = self._places(search, in_reach, is_there, best)
            if is_there[places].all():
                return search, [i for i in places if search.elbo[i] > goal]
        if self.so_far is None or not self._limit():
            return None
        return search, [int(np.argmax(search.elbo))]

    @property
    def _num_followed(self) -> int:
        """Starts that are followed: the more the less an iteration costs."""
        _, num_points, _ = self._shape
        most = MEMORY // (num_points * self.programs.size)
        return max(1, most) if self.programs.explores else 1

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Searches, points of noise for each, and dimension."""
        return self.programs.newton.shapes[2].shape

    def _note(self, search: Search, active: Any) -> None:
        """Where the starts are now."""
        before = np.nan if self.start_elbos is None else self.start_elbos
        self.start_elbos = np.where(active, search.elbo, before)
        self.reached = [
            self._member(search, i) if np.isfinite(elbo) else None
            for i, elbo in enumerate(search.elbo)
        ]

    def _places(
        self, search: Search, in_reach: Any, is_there: Any, best: int
    ) -> list[int]:
        """Searches that end far from each other, the best first.

        One that has not arrived belongs to the place of one nearby that has, unless its
        bound is higher already.
        """
        places = [best]
        members = [self._member(search, i) for i in range(len(in_reach))]
        for i in np.argsort(-search.elbo):
            known = places
            if not is_there[i]:
                higher = search.elbo > search.elbo[i] - NEAR
                known = [
                    j for j in np.flatnonzero(higher) if is_there[j] or j in places
                ]
            near = (self._distance(members[j], members[i]) for j in known)
            if in_reach[i] and i != best and min(near, default=np.inf) > APART:
                places.append(int(i))
        return places

    def _settle(
        self, loc: NDArray[Any], scale: NDArray[Any]
    ) -> tuple[Status, Params, float] | None:
        """The average over searches with noise of their own, and its error."""
        locs, covariances, most = [], [], 0.0
        count, _, dim = self._shape
        tolerance = LANDED_TO * dim
        mean, covariance = loc, scale @ scale.T
        for _ in range(ROUNDS * max(1, FEWEST // count)):
            root = np.linalg.cholesky(covariance)
            begun = np.repeat(mean[None], count, 0), np.repeat(root[None], count, 0)
            active = np.ones(count, bool)
            given = *begun, self._noise(count), active
            search = self._call(*given, MAX_ITERATIONS, tolerance, 0.0)
            status = self._limit()
            if not (search.promised <= EXPLORED_TO).all():
                so_far = status, self._params(mean, covariance), np.inf
                return so_far if status else None
            locs += [*search.loc]
            covariances += [root @ root.T for root in search.scale]
            mean, covariance = np.mean(locs, 0), np.mean(covariances, 0)
            params = self._params(mean, covariance)
            most = max(most, float(search.promised.max()))
            noisy = _error(np.array(locs), np.array(covariances))
            error = float(np.hypot(noisy, np.sqrt(2 * most / dim)))
            if status or (len(locs) >= FEWEST and error <= ERROR):
                return status or Status.CONVERGED, params, error
        return None if error > WORST else (Status.CONVERGED, params, error)

    def _limit(self) -> Status | None:
        """The limit that has been reached, if any."""
        if time.monotonic() > self.deadline:
            return Status.MAX_SECONDS
        return None if self._left > 0 else Status.MAX_STEPS

    @property
    def _left(self) -> int:
        """Steps that the fit may still make."""
        return self.limits.max_steps - self.before - len(self.elbos)

    def _call(
        self,
        loc: Any,
        scale: Any,
        points: Any,
        active: Any,
        limit: int,
        tolerance: float,
        near: float,
    ) -> Search:
        """Run the program, and note the bounds of the best search."""
        dtype = jax.tree.leaves(self._like)[0].dtype
        given = [np.asarray(x, dtype) for x in (loc, scale, points)]
        given += [active, np.int32(min(limit, max(self._left, 1)))]
        given += [np.float32(tolerance), np.float32(near), self.data]
        made = self.programs.newton(*given)
        search: Search = jax.tree.map(
            lambda x: np.asarray(x, np.float64), jax.device_get(made)
        )
        best = int(np.argmax(search.elbo))
        if np.isfinite(search.elbo[best]):
            self.so_far = self._member(search, best)
        for bound in search.elbos[best][: int(search.count[best])]:
            self.elbos.append(float(bound))
            if np.isfinite(bound):
                number = self.before + len(self.elbos)
                self.limits.progress.update(number, float(bound), 1.0)
        return search

    def _noise(self, count: int) -> NDArray[Any]:
        return noise(self._generator, count, *self._shape[1:])

    def _gaussian(self, params: Params) -> Gaussian:
        return self.plan.guide.gaussian(self.plan.analysis, self.plan.drawn, params)

    def _member(self, search: Search, i: int) -> Params:
        return self._params(search.loc[i], search.scale[i] @ search.scale[i].T)

    def _params(self, loc: NDArray[Any], covariance: NDArray[Any]) -> Params:
        """The member of the family with these moments."""
        guide, analysis, names = self.plan.guide, self.plan.analysis, self.plan.drawn
        sites = continuous_of(analysis, names)
        sd = np.sqrt(np.diagonal(covariance))
        at = Gaussian(
            by_site(analysis, sites, loc),
            by_site(analysis, sites, sd),
            lambda: covariance,
        )
        made = guide.start_from(analysis, names, self._like, at)
        return {n: np.asarray(x, self._like[n].dtype) for n, x in made.items()}

    def _distance(self, params: Params, other: Params) -> float:
        return self.plan.guide.distance(params, other)


def _tril(root: NDArray[Any]) -> NDArray[Any]:
    """The lower triangular root of the same covariance, without making that."""
    upper = np.linalg.qr(root.T)[1]
    return (upper * np.sign(np.diagonal(upper))[:, None]).T


def _error(locs: NDArray[Any], covariances: NDArray[Any]) -> float:
    """Largest standard error of an average mean or deviation, in deviations."""
    if len(locs) < 2:
        return np.inf
    sds = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    typical = np.sqrt(np.mean(sds**2, 0))
    spread = np.maximum(np.std(locs, 0, ddof=1), np.std(sds, 0, ddof=1)) / typical
    return float(np.max(spread)) / np.sqrt(len(locs))
