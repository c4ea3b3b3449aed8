"""The host's side of the deterministic phase: where searches end, and how surely.

`Deterministic` sends every start up its bound, looks whether they ended in one place,
and goes there again with other noise until the average is known well enough. Where any
of this fails it says so, and the stochastic phase takes over.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from bbvi._types import Data, Key, Params
from bbvi.guides.base import INITIAL_SCALE, NEAR_ZERO, Gaussian, continuous_of
from bbvi.guides.gaussian import by_site, flat_of
from bbvi.optimize.newton import CLOSE, HOPE, MAX_ITERATIONS, Best, Search, begun, noise
from bbvi.optimize.searches import onwards, replaced, standard_error
from bbvi.optimize.stopping import Limits
from bbvi.planning import Plan
from bbvi.programs import Programs
from bbvi.starting import HERE, Origin, generator_of, member_at
from bbvi.verdict import Status

EXPLORED_TO = 1e-2
"""Nats that a step of a start that has arrived promises at most."""
NEAR = 1.0
"""Nats from one that has arrived at which those beside it need not do so, too."""
LANDED_TO, AT_MOST = 1e-5, 5e-4
"""The same of a search with noise of its own: for each dimension, and in all."""
FOLLOWED = 2**21
"""Numbers that the points of all starts that are followed may need."""
REDRAWS = 3
"""Times that starts without a finite bound are drawn anew."""
CALLS, MORE_CALLS = 3, 8
"""Calls in which every start that matters must arrive: around the prior, and near."""
BEHIND = 50.0
"""Nats that a start may still gain at most."""
APART = 3.0
"""Distance between two places, see `Guide.distance`."""
SEARCHES, ROUNDS = 8, 4
"""Searches in a round of those behind an average, and most rounds."""
SIDE_BY_SIDE = 2
"""Searches that run at once; one of those knows nothing of the other."""
ERROR = 0.05
"""Monte-Carlo error, in standard deviations of q, that is good enough."""
WORST = 0.1
"""The same after the last round, beyond which the answer is none."""


@dataclass
class Landing:
    """How the phase ended.

    Attributes:
        status: Converged, or the limit that was reached.
        params: The best member of the family.
        num_modes: Places where starts ended with about the same bound.
        error: Largest Monte-Carlo error of a mean or a standard deviation, and what
            is left to go, were it along one coordinate, in standard deviations of q;
            nan where one search was enough to see that the family is too poor.
    """

    status: Status
    params: Params
    num_modes: int
    error: float

    @property
    def note(self) -> str:
        """How, and how surely, in words."""
        error = f"Monte-Carlo error {self.error:.3f} standard deviations"
        return f"by Newton steps on common random numbers, {error}"


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
        origin: Around which starts lie, as far as a user has said so.
        is_poor: Whether the family cannot carry the posterior at its best member, which
            then need not be known well; None where that does not matter.
        elbos: The bound after each iteration so far.
        start_elbos: Where the starts are, `(num_starts,)`; nan where there is none.
        so_far: The best member so far, at first where a search begins.
        is_found: Whether one with a finite bound is known.
        reached: Where starts got to, None where they have no finite bound.
    """

    plan: Plan
    programs: Programs
    data: Data
    key: Key
    limits: Limits
    deadline: float
    before: int
    origin: Origin | None = None
    is_poor: Callable[[Params], bool] | None = None
    elbos: list[float] = field(default_factory=list)
    start_elbos: Any = None
    so_far: Params | None = None
    is_found: bool = False
    reached: list[Params | None] = field(default_factory=list)

    def run(self, starts: list[Params]) -> Landing | None:
        """Fit from some starts, by default around the prior; None where it fails."""
        self._generator = generator_of(self.key)
        like = self.programs.like
        self._like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        self._straight = np.zeros(self.programs.newton.shapes[0].bend.shape)
        self._is_free, count = not starts, self.limits.num_starts
        self._bending = self.plan.guide.bending(self.plan.analysis, self.plan.drawn)
        at = self._at = self._parts(starts) if starts else self._anywhere(count)
        self.so_far = self._params(at[0][0], at[1][0] @ at[1][0].T, at[2][0])
        try:
            return self._landed(at)
        except np.linalg.LinAlgError:  # a covariance that rounding made singular
            return None

    def begun(self) -> list[Params]:
        """Where the starts of the last run began."""
        count = len(self._at[0])
        points = np.repeat(self._noise(1), count, 0)
        search = self._call(*self._at, points, np.inf, limit=0)
        return [self._member(search, i) for i in range(count)]

    def _landed(self, at: list[NDArray[Any]]) -> Landing | None:
        explored = self._explore(at)
        if explored is None:
            return None
        search, places = explored
        best, status = places[0], self._limit()
        member = self._member(search, best)
        if status:
            return Landing(status, member, len(places), np.inf)
        if self.is_poor and len(places) == 1 and self.is_poor(member):
            return Landing(Status.CONVERGED, member, 1, np.nan)
        settled = self._settle(search.loc[best], search.scale[best], search.bend[best])
        if settled is None:
            return None
        status, params, error = settled
        return Landing(status, params, len(places), error)

    def _explore(self, at: list[NDArray[Any]]) -> tuple[Search, list[int]] | None:
        """Where starts end, and which of them are different places, the best first."""
        count = len(at[0])
        points, followed = np.repeat(self._noise(1), count, 0), np.arange(count)
        self.start_elbos, self.reached = np.full(count, np.nan), [None] * count
        if self._num_followed < count:
            first = self._call(*at, points, EXPLORED_TO, NEAR, limit=1)
            self._note(first, followed)
            followed = np.argsort(-first.elbo)[: self._num_followed]
            at, points = [x[followed] for x in at], points[followed]
        for call in range(CALLS if self._is_free else MORE_CALLS):
            search = self._call(*at, points, EXPLORED_TO, NEAR)
            if self._is_free and not call:
                search = self._redrawn(search, points, followed)
            self._note(search, followed)
            at = onwards(search)
            if not np.isfinite(search.elbo).any() or self._limit():
                break
            is_there = search.promised <= EXPLORED_TO
            best = int(np.argmax(np.where(is_there, search.elbo, -np.inf)))
            goal = search.elbo[best] - CLOSE
            hope = np.clip(HOPE * search.promised, 0.0, BEHIND)
            in_reach = search.elbo + hope > goal
            places = self._places(search, in_reach, is_there, best)
            lags = (search.elbo <= goal) & (search.elbo > goal - search.promised)
            is_open = lags.any() and call < CALLS - 1
            if is_there[places].all() and not is_open:
                found = [i for i in places if search.elbo[i] > goal]
                return self._told_apart(search, found, points)
        if not self.is_found or not self._limit():
            return None
        return search, [int(np.argmax(search.elbo))]

    def _redrawn(self, search: Search, points: NDArray[Any], followed: Any) -> Search:
        """The searches, with others in the place of those without a finite bound."""
        for _ in range(REDRAWS):
            lost = np.flatnonzero(~np.isfinite(search.elbo))
            if not lost.size or self._limit():
                break
            fresh = self._anywhere(lost.size)
            for part, new in zip(self._at, fresh, strict=True):
                part[followed[lost]] = new
            again = self._call(*fresh, points[lost], EXPLORED_TO, NEAR)
            search = replaced(search, lost, again)
        return search

    def _told_apart(
        self, search: Search, places: list[int], points: NDArray[Any]
    ) -> tuple[Search, list[int]]:
        """Places that stay apart to the end, the best first.

        In a flat valley a step may promise little far from the top.
        """
        for _ in range(CALLS):
            if len(places) == 1 or self._limit():
                break
            search = jax.tree.map(lambda x, kept=places: x[kept], search)
            points = points[places]
            search = self._call(*onwards(search), points, self._landed_to)
            best = int(np.argmax(search.elbo))
            in_reach = search.elbo > search.elbo[best] - CLOSE
            places = self._places(search, in_reach, np.ones(len(places), bool), best)
            if (search.promised <= self._landed_to).all():
                break
        return search, places

    @property
    def _num_followed(self) -> int:
        """Starts that are followed: the more the less an iteration costs."""
        most = FOLLOWED // (self._shape[0] * self.programs.size)
        return max(1, most) if self.programs.explores else 1

    @property
    def _shape(self) -> tuple[int, int]:
        """Points of noise behind a search, and dimension."""
        return self.programs.newton.shapes[2].shape

    @property
    def _landed_to(self) -> float:
        """Nats that a step of a search that is averaged promises at most."""
        return min(LANDED_TO * self._shape[1], AT_MOST)

    def _note(self, search: Search, followed: Any) -> None:
        """Where the starts are now."""
        self.start_elbos[followed] = search.elbo
        for i, start in enumerate(followed):
            is_finite = np.isfinite(search.elbo[i])
            self.reached[start] = self._member(search, i) if is_finite else None

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
            near = (self.plan.guide.distance(members[j], members[i]) for j in known)
            if in_reach[i] and i != best and min(near, default=np.inf) > APART:
                places.append(int(i))
        return places

    def _settle(
        self, loc: NDArray[Any], scale: NDArray[Any], bend: NDArray[Any]
    ) -> tuple[Status, Params, float] | None:
        """The average over searches with noise of their own, and its error."""
        found, promised = [], []
        mean = loc, scale @ scale.T, bend
        for _ in range(ROUNDS):
            at = mean[0], np.linalg.cholesky(mean[1]), mean[2], np.zeros(())
            begun = [np.repeat(x[None], SEARCHES, 0) for x in at]
            search = self._call(*begun, self._noise(SEARCHES), self._landed_to)
            status = self._limit()
            if not (search.promised <= NEAR).all():
                return (status, self._params(*mean), np.inf) if status else None
            covariances = search.scale @ np.swapaxes(search.scale, 1, 2)
            found += zip(search.loc, covariances, search.bend, strict=True)
            each = [np.stack(x) for x in zip(*found, strict=True)]
            mean = tuple(np.mean(x, 0) for x in each)
            promised += [*search.promised]
            to_go = np.sqrt(2 * np.mean(promised))  # all along one coordinate
            error = float(np.hypot(standard_error(*each, self._bending), to_go))
            if status or error <= ERROR:
                break
        if not status and error > WORST:
            return None
        return status or Status.CONVERGED, self._params(*mean), error

    def _is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def _limit(self) -> Status | None:
        """The limit that has been reached, if any."""
        if self._is_late():
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
        bend: Any,
        towards: Any,
        points: Any,
        tolerance: float,
        near: float | None = None,
        *,
        limit: int = MAX_ITERATIONS,
    ) -> Search:
        """Run some searches, and note the bounds of the best.

        With ``near`` they are starts, and one that cannot reach the best before it, or
        comes that near to it, stops.
        """
        dtype = jax.tree.leaves(self._like)[0].dtype
        parts = [np.asarray(x, dtype) for x in (loc, scale, bend, towards, points)]
        each = [(begun(*x[:3]), *x[3:], x[4].T) for x in zip(*parts, strict=True)]
        numbers = np.float32([tolerance, near or 0.0, len(self._bending) > 0])
        nowhere = np.zeros(loc.shape[1:], dtype)
        best, made = Best(nowhere, nowhere, dtype.type(-np.inf)), []
        is_double = jax.config.jax_enable_x64

        def run(given: Any) -> Search:
            with jax.enable_x64(is_double):  # which each thread has for itself
                return jax.device_get(self.programs.newton(*given, *numbers, self.data))

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for first in range(0, len(loc), SIDE_BY_SIDE):
                most = 1 if self._is_late() else min(limit, max(self._left, 1))
                now = each[first : first + SIDE_BY_SIDE]
                given = [(*x, best, np.int32(most)) for x in now]
                for search in [*pool.map(run, given)]:  # all, before any is compared
                    made.append(search)
                    is_there = near is not None and search.promised <= tolerance
                    if is_there and search.elbo > best.elbo:
                        sd = np.linalg.norm(search.scale, axis=1)
                        best = Best(search.loc, sd, search.elbo)
        found = jax.tree.map(lambda *x: np.stack(x).astype(np.float64), *made)
        self._report(found)
        return found

    def _report(self, search: Search) -> None:
        """The bounds that the best of some searches came through."""
        best = int(np.argmax(search.elbo))
        if np.isfinite(search.elbo[best]):
            self.so_far, self.is_found = self._member(search, best), True
        for bound in search.elbos[best][: int(search.count[best])]:
            self.elbos.append(float(bound))
            if np.isfinite(bound):
                number = self.before + len(self.elbos)
                self.limits.progress.update(number, float(bound), 1.0)

    def _noise(self, count: int) -> NDArray[Any]:
        return noise(self._generator, count, *self._shape)

    def _anywhere(self, count: int) -> list[NDArray[Any]]:
        """Parts of starts: around a centre of the prior, one in four around 0."""
        locs = self._generator.standard_normal((count, self._shape[1]))
        towards = np.where(locs[:, 0] > NEAR_ZERO, 1.0, 0.0)
        roots = np.repeat(INITIAL_SCALE * np.eye(self._shape[1])[None], count, 0)
        if self.origin:
            locs[HERE], towards[HERE] = self.origin.around(locs[HERE]), 0.0
            roots[HERE] = np.diag(self.origin.scale)
        return [locs, roots, np.repeat(self._straight[None], count, 0), towards]

    def _parts(self, members: list[Params]) -> list[NDArray[Any]]:
        """Means, roots of the covariance and bends of members, which stay there."""
        analysis, names = self.plan.analysis, self.plan.drawn
        at = [self.plan.guide.base(analysis, names, params) for params in members]
        locs = [flat_of(base.loc) for base in at]
        roots = [np.linalg.cholesky(base.covariance()) for base in at]
        bends = [self._straight if base.bend is None else base.bend for base in at]
        return [*(np.stack(x) for x in (locs, roots, bends)), np.zeros(len(at))]

    def _member(self, search: Search, i: int) -> Params:
        root = search.scale[i]
        return self._params(search.loc[i], root @ root.T, search.bend[i])

    def _params(
        self, loc: NDArray[Any], covariance: NDArray[Any], bend: NDArray[Any]
    ) -> Params:
        """The member of the family with these parts."""
        analysis = self.plan.analysis
        sites = continuous_of(analysis, self.plan.drawn)
        at = Gaussian(
            by_site(analysis, sites, loc),
            by_site(analysis, sites, np.sqrt(np.diagonal(covariance))),
            lambda: covariance,
            bend,
        )
        return member_at(self.plan, self._like, at)
