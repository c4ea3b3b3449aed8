"""The host's side of a fit: what happens between chunks of steps.

`Driver` screens and explores the starts, follows the best through its plateaus, looks
whether others ended elsewhere, and judges the answer. Nothing here runs inside the
compiled programs.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from bbvi._types import Data, Key, Params
from bbvi.deterministic import APART, Deterministic
from bbvi.diagnostics import elbo, psis
from bbvi.drawing import Draw
from bbvi.families import advice
from bbvi.optimize.loop import Seen, State, unravel
from bbvi.optimize.newton import CLOSE
from bbvi.optimize.stopping import NEAR, STILL, Limits, Plateaus, is_hopeless
from bbvi.planning import Plan
from bbvi.programs import Programs
from bbvi.reach import missing_evidence
from bbvi.result import Fit, Live
from bbvi.starting import Origin, starts_of
from bbvi.verdict import Level, Status, judge
from bbvi.watching import (
    Candidate,
    best_of,
    first_bad,
    flat,
    history_of,
    hole_in,
    is_finite,
    no_start,
    signal,
)

RATE = 0.05
"""First learning rate of Adam, in units of q's standard deviations."""
LOWER = 0.25
"""Factor from one learning rate to the next."""
TOLERANCE = 0.02
"""Gain of the bound, in nats, that does not justify lower rates.

The gap of a plateau's average is proportional to its rate, so that all further ones
together gain `LOWER / (1 - LOWER)` times what the last one did.
"""
RESOLUTION = 0.05
"""Drift of a parameter, in the guide's units, that does not matter."""
EXPLORED = 3
"""Chunks that every start of a small model runs before the best is followed."""
FIRST = 2**16
"""Number of the first step; the draws that candidates are compared on come before."""
EXPLORING = 2**30
"""Number of the first step of exploring."""
ALL_CHUNKS = 60
"""Chunks after which no more starts are compared with the one that was followed."""
FOLLOWED = 4_000
"""Number of the first chunk of a rival, among those of exploring."""
FAR = 10_000.0
"""Nats that a start lags where Newton steps went, so that it begins there instead."""
BEHIND = 50.0
"""Nats by which a rival may lag after exploring."""
RIVAL_CHUNKS = 20
"""Chunks in which one of them may still come to the same place, or gain on the best."""
MAX_FAILURES = 8
"""Chunks in a row that may fail to be finite."""


@dataclass
class Driver:
    """The host's side of a fit: what happens between chunks."""

    plan: Plan
    programs: Programs
    data: Data
    key: Key
    limits: Limits
    size: int
    begun: float
    plateaus: Plateaus
    origin: Origin | None = None
    rate: float = 1.0
    num_chunks: int = 0
    steps: int = 0
    note: str = ""
    best: Candidate | None = None
    rows: list[tuple[int, float, float]] = field(default_factory=list)
    snr: list[dict[str, float]] = field(default_factory=list)
    start_elbos: Any = None
    rivals: list[State] = field(default_factory=list)
    num_modes: int = 1
    num_followed: int = 0
    moved: Any = False
    is_near: bool = False
    start: Any = None
    poor: frozenset[Level] = frozenset()
    is_rough: bool = False
    path: tuple[str, ...] = ()
    first: list[Params] = field(default_factory=list)
    reached: list[Params | None] = field(default_factory=list)

    def run(self) -> Fit:
        """Fit, and judge the answer."""
        self.limits.progress.start(self.limits.max_steps)
        params, status = None, Status.INTERRUPTED
        try:
            if self.programs.newton:
                params, status = self._land(self.start)
            if params is None:
                params, status = self._step()
        finally:
            self.limits.progress.close(str(status or Status.INTERRUPTED))
        return self._finish(params, status)

    def _land(self, vectors: Any) -> tuple[Params | None, Status]:
        """Fit by Newton steps, from starts of its own if not given; None: it failed."""
        given = () if vectors is None else np.atleast_2d(vectors)
        starts = [self._tree(vector) for vector in given]
        deadline = self.begun + self.limits.max_seconds
        own = self.plan, self.programs, self.data, self.key, self.limits, deadline
        phase, params, status = Deterministic(*own, self.steps, self.origin), None, None
        if self.poor:
            phase.is_poor = lambda params: self._measure(params).is_poor(self.poor)
        try:
            landing = phase.run(starts)
        except KeyboardInterrupt:
            if phase.so_far is None:
                raise
            params, status = phase.so_far, Status.INTERRUPTED
        else:
            if landing:
                params, status = landing.params, landing.status
                self.num_modes = landing.num_modes
                self.is_rough, self.note = bool(np.isnan(landing.error)), landing.note
            elif not starts:
                self.first, self.reached = phase.begun(), phase.reached
        rows = enumerate(phase.elbos, self.steps + 1)
        rows = [(number, bound, 1.0) for number, bound in rows if np.isfinite(bound)]
        self.rows += rows
        self.snr += [{} for _ in rows]
        self.steps += len(phase.elbos)
        if not starts:
            self.start_elbos = phase.start_elbos
        return params, status

    def _step(self) -> tuple[Params, Status]:
        """Fit by stochastic gradients, until Newton steps get there, if they can."""
        self.rate, self.moved = RATE if self.limits.lowers else 1.0, False
        self.is_near, self.num_modes, self.note = self.start is not None, 1, ""
        state, status = self._start(), Status.INTERRUPTED
        if self.programs.newton and self.programs.explores:
            vectors = [each.params for each in (state, *self.rivals)]
            params, landed = self._land(vectors)
            if params is not None:
                return params, landed
        if self.programs.landed:
            self.programs.landed.begin()
        try:
            state, status = self._optimize(state)
            if status is Status.CONVERGED:
                state, status = self._compare_rivals(state)
        except KeyboardInterrupt:
            state = self._last
        return self._final(state, status), status

    def _start(self) -> State:
        """The best of several starts, or the one that is given."""
        if self.start is not None:
            self._last = self._begun(self.start)
            return self._last
        vectors = [flat(params) for params in self.first]
        given = self.programs, self.origin, self.key, self.data
        vectors = np.stack(vectors or starts_of(self.plan, *given))
        if explores := self.programs.explores:
            states, elbos = self._explore(vectors)
            vectors = [state.params for state in states]
        else:
            elbos = jax.device_get(self.programs.screen(vectors, self.key, self.data))
        self.start_elbos = np.asarray(elbos, np.float64)[: self.limits.num_starts]
        elbos = np.where(np.isfinite(elbos), elbos, -np.inf)
        if not np.isfinite(elbos).any():
            raise ValueError(no_start(self.plan, first_bad(*self._probed(vectors[0]))))
        best, *others = np.argsort(elbos)[::-1]
        if explores:
            goal = np.max(elbos[: self.limits.num_starts]) - BEHIND
            self.rivals = [states[i] for i in others if elbos[i] > goal]
        self._last = states[best] if explores else self._begun(vectors[best])
        return self._last

    def _begun(self, vector: Any) -> State:
        return jax.device_get(self.programs.begin(vector, self.data))

    def _explore(self, vectors: Any) -> tuple[list[State], Any]:
        """Every start a few chunks on, and the best place that Newton steps reached."""
        states = [self._begun(vector) for vector in vectors]
        made = [self._advanced(start, i) for i, start in enumerate(states)]
        known = [i for i, params in enumerate(self.reached) if params is not None]
        leader = max(known, key=lambda i: self.start_elbos[i], default=None)
        for i in known:
            is_far = not self.start_elbos[i] < made[i][1] + FAR
            if is_far or i == leader:
                start = self._begun(flat(self.reached[i]))
                where = i if is_far else len(states)
                made[where : where + 1] = [self._advanced(start, len(states) + i)]
        return [state for state, _ in made], np.array([bound for _, bound in made])

    def _advanced(self, state: State, index: int) -> tuple[State, float]:
        """A start some chunks on, and its bound over the last one."""
        rate, bound = np.float32(self.rate), -np.inf
        for chunk in range(EXPLORED):
            number = np.uint32(EXPLORING + self.size * (EXPLORED * index + chunk))
            after, seen = self.programs.chunk(state, self.key, number, rate, self.data)
            seen = jax.device_get(seen)
            if not is_finite(seen):
                break
            state, bound = after, float(np.mean(seen.elbos, dtype=np.float64))
        return state, bound

    def _compare_rivals(self, state: State) -> tuple[State, Status]:
        """Do other starts end elsewhere, with a bound as good or better?

        A better one is followed in turn; one about as good is another mode.
        """
        status, modes = Status.CONVERGED, [self.best]
        rivals, self.rivals = self.rivals, []
        for number, rival in enumerate(rivals):
            is_spent = self.num_followed >= ALL_CHUNKS
            found = None if is_spent else self._follow(rival, modes)
            if found is None:
                continue
            if found.elbo > self.best.elbo + 1.0:
                self.best, self.rate = None, RATE if self.limits.lowers else 1.0
                self.is_near = False
                self.plateaus.reset()
                self.rivals = rivals[number + 1 :]
                state = state._replace(params=flat(found.params))
                state, status = self._optimize(state)
                if status is Status.CONVERGED:
                    return self._compare_rivals(state)
                return state, status
            if found.elbo > self.best.elbo - CLOSE:
                modes.append(found)
        self.num_modes = len(modes)
        return state, status

    def _follow(self, state: State, modes: list[Candidate]) -> Candidate | None:
        """Where a rival ends if it does not come to a mode that is known."""
        rate = np.float32(RATE if self.limits.lowers else 1.0)
        still = flat(modes[0].params)  # of elements without a gradient, as masked ones
        state = state._replace(params=np.where(self.moved, state.params, still))
        params, bounds, goal = self._tree(state.params), [], self.best.elbo - CLOSE
        for left in reversed(range(RIVAL_CHUNKS)):
            if min(self.plan.guide.distance(m.params, params) for m in modes) < APART:
                return None
            before = FOLLOWED + self.num_followed
            first = np.uint32(EXPLORING + self.size * before)
            state, seen = self.programs.chunk(state, self.key, first, rate, self.data)
            seen = jax.device_get(seen)
            if not is_finite(seen):
                return None
            params = self._tree(seen.mean)
            self.num_followed += 1
            bounds.append(np.mean(seen.elbos, dtype=np.float64))
            if self._is_late() or is_hopeless(bounds, left, goal):
                return None
        return self._measure(params)

    def _optimize(self, state: State) -> tuple[State, Status]:
        failures = 0
        while self.steps + self.size <= self.limits.max_steps:
            first = np.uint32(FIRST + self.size * self.num_chunks)
            rate = np.float32(self.rate)
            run = (self.is_near and self.programs.landed) or self.programs.chunk
            after, seen = run(state, self.key, first, rate, self.data)
            seen = jax.device_get(seen)
            self.num_chunks += 1
            self.steps += self.size
            if is_finite(seen):
                state, failures = after, 0
                self._last = state
                self._note_chunk(seen)
                state, done = self._look(state, seen)
                if done:
                    return state, Status.CONVERGED
            else:
                failures += 1
                self.rate *= 0.5
                self.plateaus.reset()
                if failures == MAX_FAILURES:
                    name = first_bad(*self._probed(state.params))
                    self.note = f"the first that was not finite is {name!r}"
                    return state, Status.NOT_FINITE
            if self._is_late():
                return state, Status.MAX_SECONDS
        return state, Status.MAX_STEPS

    def _is_late(self) -> bool:
        return time.monotonic() - self.begun > self.limits.max_seconds

    def _note_chunk(self, seen: Seen) -> None:
        bound = float(np.mean(seen.elbos, dtype=np.float64))
        self.rows.append((self.steps, bound, self.rate))
        self.moved |= seen.gradient_square != 0
        total, square = self._tree(seen.gradient_sum), self._tree(seen.gradient_square)
        self.snr.append(signal(total, square, self.size))
        self.limits.progress.update(self.steps, bound, self.rate)

    def _look(self, state: State, seen: Seen) -> tuple[State, bool]:
        """At a plateau take its average, lower the rate, and see what that gained."""
        units = flat(self.plan.guide.units(self._tree(seen.mean)))
        mean, variance = (np.asarray(x, np.float64) for x in (seen.mean, seen.variance))
        self.plateaus.add(mean, variance, RESOLUTION * units, self.rows[-1][1])
        if self.programs.landed and not self.is_near and self.plateaus.is_flat(*NEAR):
            self.is_near = True
            self.plateaus.reset()
        window = self.plateaus.window()
        drifts = self.programs.landed and not self.plateaus.is_flat(*STILL)
        if window is None or drifts:
            return state, False
        average = self.plateaus.average(window).astype(seen.mean.dtype)
        candidate = self._measure(self._tree(average))
        candidate.error = self.plateaus.error(window, units)
        gained = self.best and candidate.log_weights - self.best.log_weights
        planned, self.is_near = self.plateaus.planned or 2 * window, True
        if gained is None or np.mean(gained) > 0:
            self.best = candidate
        self.plateaus.reset(planned=planned)
        if gained is not None and np.mean(gained) < TOLERANCE * (1 / LOWER - 1):
            gain = f"the last plateau gained {np.mean(gained):.3f} nats"
            self.note = gain + self.best.precision
            return state, True
        if self.limits.lowers:
            self.rate *= LOWER
        return state._replace(params=average), False

    def _tree(self, vector: Any) -> Params:
        """Parameters by name, from the vector that the loop works on."""
        return unravel(np.asarray(vector), self.programs.like)

    def _measure(self, params: Params) -> Candidate:
        """Log weights of draws that are common to all candidates."""
        made = self._draws(params, 1, 0)
        return Candidate(params, np.asarray(made.log_p - made.log_q, np.float64))

    def _draws(self, params: Params, count: int, first: int) -> Draw:
        given = self.programs.measure, params, self.key, self.data
        return self.programs.draws(*given, count, first, likelihood=False, values=False)

    def _final(self, state: State, status: Status) -> Params:
        """The best candidate; where there may be a better one, the later iterates."""
        if status is Status.CONVERGED:
            return self.best.params
        last = min(2, len(self.plateaus.means))
        vectors = state.params, *([self.plateaus.average(last)] if last else ())
        candidates = [self._measure(self._tree(vector)) for vector in vectors]
        return best_of([*candidates, *filter(None, [self.best])]).params

    def _finish(self, params: Params, status: Status) -> Fit:
        made = self.programs.final(params, self.key, self.data, is_rough=self.is_rough)
        log_weights = made.log_p - made.log_q
        bound, weights = elbo(made.log_p, made.log_q), psis(log_weights)
        if self.start_elbos is None:  # interrupted before the first look
            self.start_elbos = np.full(self.limits.num_starts, np.nan)
        rows = self.rows or [(0, np.max(self.start_elbos), self.rate)]
        made_by = self.plan.guide
        seen = self.plan, params, made, partial(self._draws, count=1)
        missing = missing_evidence(*seen) if status is Status.CONVERGED else 0.0
        path = f"{made_by!r}: ELBO {bound}, k-hat {weights.khat:.2f}"
        past = self.start_elbos, self.note, (*self.path, path)
        return Fit(
            status=status,
            verdict=judge(
                status,
                bound,
                weights,
                len(log_weights),
                richer=advice(self.plan.analysis, self.plan.drawn, made_by),
                num_modes=self.num_modes,
                missing=missing,
                points=self.plan.points,
                hole=hole_in(log_weights, partial(self._probed, flat(params))),
                note=self.plan.note,
            ),
            params=params,
            history=history_of(rows, self.snr, *past),
            elbo=bound,
            weights=weights,
            key=self.key,
            live=Live(self.plan, self.programs, self.data),
        )

    def _probed(self, vector: Any) -> Any:
        """Terms and gradients of many draws, by name."""
        probed = self.programs.probe(self._tree(vector), self.key, self.data)
        return jax.device_get(probed)
