"""The compiled programs of a fit, kept so that a second fit compiles nothing.

Every fit needs `measure` for log densities of draws, and the `newton` of the
deterministic phase, or `starts` and a `chunk` of steps; the others are compiled when
they are first called.
All take the data as arguments.
Programs are kept by what they compute (the text of guide, model and optimizer as JAX
sees them), not by which function object was passed, so that a model defined anew
compiles nothing either, and one whose global data changed does compile.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bbvi._keys import numbered
from bbvi._types import SCREEN_STREAM, Array, Data, Key, Params, Values
from bbvi.analysis import Arguments
from bbvi.analysis.fingerprints import fingerprint
from bbvi.compiling import Ahead
from bbvi.diagnostics import khat_threshold, psis
from bbvi.drawing import Draw, draw, whole
from bbvi.estimators import RunningAverage
from bbvi.joint import initial_params, unconstrained
from bbvi.objective import Objective
from bbvi.optimize.loop import (
    Chunk,
    State,
    make_chunk,
    ravel,
    unravel,
)
from bbvi.planning import Plan
from bbvi.searching import MEMORY, newton_of
from bbvi.surrogates import controls

if TYPE_CHECKING:
    import optax

KEPT = 32
"""Number of fits whose programs are kept."""
NUM_DRAWS = (200, 10_000)
"""Fewest and most draws behind the bound and the k-hat of a fit."""
NUM_NUMBERS = 2**26
"""Numbers that all those draws may need, which decides between the two."""
MORE_DRAWS, EFFECTIVE = 4, 0.5
"""Times as many where k-hat is too large and this share effective, see `final`."""
ROUGH = 4
"""Times fewer numbers where the fit may go on to another family."""

FRESH = 2**31
"""Number of the first draw that no candidate of an optimisation was compared on."""
PROBES = 256
"""Draws that are looked at for what is not finite."""
EXPLORABLE = 30_000
"""Numbers in a draw up to which every start runs some steps before one is followed."""
STARTS = np.uint32(2**32 - 2**16)
"""Stream of the first start."""

_kept: OrderedDict[Any, "Programs"] = OrderedDict()


class Programs(NamedTuple):
    """Compiled functions of one plan; all are pure and jitted.

    Attributes:
        explores: Whether steps are so cheap that every start runs some of them.
        centre: ``(init, data) -> values``, see `Guide.centre`; compiled only where a
            user gives values.
        starts: ``(key, data) -> vectors``, the parameters of every start.
        screen: ``(vectors, key, data) -> elbos`` of every start.
        begin: ``(vector, data) -> state`` of a fit at its first step.
        chunk: See `bbvi.optimize.loop.make_chunk`.
        landed: The same with `Plan.landed`; None where the plan has none.
        like: Shapes of the parameters, which a state holds as one vector.
        measure: ``(params, key, first, data) -> Draw``, the ``batch`` draws from
            number ``first`` on, maybe without values.
        sample: The same draws with their values.
        probe: ``(params, key, data) -> (terms, gradient)`` of many draws, to find what
            is not finite; compiled only then.
        newton: See `bbvi.searching.newton_of`; None where q is no Gaussian that it
            could move, or has sites that are not continuous, or too many.
        batch: Draws that are made at once.
        size: Numbers that one draw needs, roughly.
    """

    explores: bool
    centre: Callable[[Values, Data], Values]
    starts: Callable[[Key, Data], Array]
    screen: Callable[[Array, Key, Data], Array]
    begin: Ahead
    chunk: Chunk
    landed: Ahead | None
    like: Params
    measure: Callable[[Params, Key, Any, Data], Draw]
    sample: Callable[[Params, Key, Any, Data], Draw]
    probe: Callable[[Params, Key, Data], tuple[dict[str, Array], Params]]
    newton: Ahead | None
    batch: int
    size: int

    def final(self, params: Params, key: Key, data: Data, *, is_rough: bool) -> Draw:
        """The draws behind the bound and the k-hat of a fit, without values.

        A rough fit is not the last: models so large that it has fewer than others make
        do with those. Otherwise four times as many where k-hat is too large although
        many are effective. Where the posterior is a little skewed, the log weights are
        about $c (z^3 - 3 z)$ of a standard normal z, with a local maximum at $z = -1$
        that only $z > 2$ exceeds: 2.3 % of all draws. A tail of 3 %, which 10,000 draws
        have, begins in the bulk, and its k-hat is that of the edge of the bulk; of
        40,000 draws it is 1.5 %.
        """
        given = self.measure, params, key, data
        draws = partial(self.draws, *given, likelihood=False, values=False)
        numbers = NUM_NUMBERS // (ROUGH if is_rough else 1)
        count = int(np.clip(numbers // self.size, *NUM_DRAWS))
        batches = -(-count // self.batch)
        made, is_cut = draws(batches), is_rough and count < NUM_DRAWS[1]
        number, weights = len(made.log_p), psis(made.log_p - made.log_q)
        is_acceptable = weights.khat < khat_threshold(number)
        if is_cut or is_acceptable or not weights.ess >= EFFECTIVE * number:
            return made
        more = draws((MORE_DRAWS - 1) * batches, FRESH + number)
        return jax.tree.map(lambda *x: np.concatenate(x), made, more)

    def draws(
        self,
        function: Callable[[Params, Key, Any, Data], Draw],
        params: Params,
        key: Key,
        data: Data,
        num_batches: int,
        first: int = FRESH,
        *,
        likelihood: bool = True,
        values: bool = True,
    ) -> Draw:
        """Batches of ``measure`` or ``sample``, ``(num_batches * batch, ...)``.

        What is not asked for stays where it was made.
        """
        left = {} if likelihood else {"log_likelihood": {}}
        left |= {} if values else {"values": {}}
        made, running = [], None
        for number in range(first, first + num_batches * self.batch, self.batch):
            batch = function(params, key, np.uint32(number), data)._replace(**left)
            if running is not None:  # which came back while this one is on its way
                made.append(jax.device_get(running))
            running = batch
        made.append(jax.device_get(running))
        return jax.tree.map(lambda *x: np.concatenate(x), *made)


def programs_of(
    plan: Plan,
    optimizer: "optax.GradientTransformation | None",
    num_steps: int,
    num_starts: int,
    ahead: NDArray[Any] | None = None,
    before: Ahead | None = None,
) -> Programs:
    """The programs of a plan, compiled before if an equal plan was fitted before.

    Args:
        plan: The plan.
        optimizer: A user's own, on trees of parameters; None for Adam.
        num_steps: Steps in a chunk.
        num_starts: Starts that are compared.
        ahead: See `bbvi.searching.newton_of`.
        before: See there, too.
    """
    params = _shapes(plan)

    def build() -> Programs:
        plans = (_without_data(plan), _without_data(whole(plan)))
        building = _Building(*plans, optimizer, num_steps, num_starts, params)
        return building.programs(ahead, before)

    made = None if _kept else build()  # so that the compilers begin at once

    def move(params: Params) -> Any:
        step = optimizer and optimizer.update(params, optimizer.init(params), params)
        return step, plan.guide.retract(params, params)

    begin, data = partial(_initial, plan), plan.analysis.arguments.shapes
    begun = jax.make_jaxpr(begin)(_key_shape(), data)
    identity = (
        plan.analysis.fingerprint,
        plan.fingerprint,
        repr(plan.choices),
        repr(type(plan.guide)),
        plan.num_particles,
        fingerprint(begun),
        fingerprint(jax.make_jaxpr(move)(params)),
        num_steps,
        num_starts,
        optimizer is None,
        None if ahead is None else tuple(ahead),
        jax.config.jax_enable_x64,
    )
    if identity not in _kept:
        _kept[identity] = made or build()
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(identity)
    return _kept[identity]


def _shapes(plan: Plan) -> Params:
    """Shapes of the parameters, unconstrained."""
    constrained = {name: x.shape for name, x in plan.parameters.items()}
    return jax.eval_shape(partial(unconstrained, plan.parameters), constrained)


def _initial(plan: Plan, key: Key, data: Data) -> Params:
    kwargs = plan.analysis.arguments.bind(data)
    return initial_params(
        plan.analysis.model, plan.program, plan.parameters, kwargs, key
    )


def _without_data(plan: Plan) -> Plan:
    """The plan with shapes in the place of arrays, fit for keeping."""
    arguments = plan.analysis.arguments
    lean = Arguments(arguments.shapes, arguments.static)
    jumps = plan.jumps
    analysis = replace(plan.analysis, arguments=lean, settle=lambda: jumps)
    return replace(plan, analysis=analysis)


@dataclass(frozen=True)
class _Building:
    """The functions behind the programs of a plan, not compiled yet."""

    plan: Plan
    full: Plan
    given: "optax.GradientTransformation | None"
    num_steps: int
    num_starts: int
    like: Params

    @cached_property
    def optimizer(self) -> "optax.GradientTransformation":
        """Adam, or the given one."""
        from bbvi.optimize import optimizers

        adam, given = optimizers.ADAM, self.given
        return adam if given is None else optimizers.on_vectors(given, self.like)

    @property
    def objective(self) -> Objective:
        return Objective(self.plan)

    @property
    def size(self) -> int:
        return self.full.num_elements

    @property
    def is_small(self) -> bool:
        return self.size <= EXPLORABLE

    @property
    def explores(self) -> bool:
        return self.num_starts > 1 and self.is_small

    @property
    def batch(self) -> int:
        return int(np.clip(MEMORY // self.size, 1, 1_000))

    @property
    def decays(self) -> dict[str, float]:
        """Of the running averages of costs, by site."""
        averaged = {
            name: control
            for name, control in controls(self.plan).items()
            if isinstance(control, RunningAverage)
        }
        return {name: control.decay for name, control in averaged.items()}

    def programs(self, ahead: Any, before: Ahead | None) -> Programs:
        """All, those that are needed begun: the longest compilation first."""
        key, data = _key_shape(), self.plan.analysis.arguments.shapes
        params, landed = self.like, self.plan.landed
        vector, draw = jax.eval_shape(ravel, params), (params, key, np.uint32(0), data)
        chunk = Ahead(self.chunk_of(self.plan), later=self.step)
        newton = None
        if self.given is None:
            newton = newton_of(self.plan, self.full, params, ahead, before)
        if newton:
            newton.begin()
        elif self.explores or not landed:  # a fit that goes on from another lands so
            chunk.begin()
        starts, begin = Ahead(self.starts, key, data), Ahead(self.begin, vector, data)
        if not newton:
            begin.begin()
        sample = Ahead(partial(self.draws, values=True), *draw)
        if self.num_starts > 1 and not newton:
            starts.begin()
        vectors = jax.ShapeDtypeStruct((self.num_starts, *vector.shape), vector.dtype)
        alone = partial(self.draws, values=False)
        measure = (sample if self.is_small else Ahead(alone, *draw)).begin()
        return Programs(
            explores=self.explores,
            centre=jax.jit(self.centre),
            starts=starts,
            screen=Ahead(self.screen, vectors, key, data),
            begin=begin,
            chunk=chunk,
            landed=Ahead(self.chunk_of(landed), later=self.step) if landed else None,
            like=params,
            measure=measure,
            sample=sample,
            probe=jax.jit(self.probe),
            newton=newton,
            batch=self.batch,
            size=self.size,
        )

    def chunk_of(self, plan: Plan) -> Chunk:
        """Steps of this plan, or of its landed one."""

        def chunk(*given: Any) -> Any:
            rest = plan.guide.retract, self.num_steps, self.decays, self.like
            return make_chunk(Objective(plan), self.optimizer, *rest)(*given)

        return chunk

    def step(self) -> tuple[Any, ...]:
        """Shapes of what a chunk is given."""
        data, vector = (
            self.plan.analysis.arguments.shapes,
            jax.eval_shape(ravel, self.like),
        )
        state = jax.eval_shape(self.begin, vector, data)
        return state, _key_shape(), np.uint32(0), np.float32(0), data

    def begin(self, vector: Array, data: Data) -> State:
        """The state of a fit at its first step."""
        costs = {}
        if self.decays:
            params = unravel(vector, self.like)
            _, info = jax.eval_shape(self.objective, params, _key_shape(), data)
            costs = {n: jnp.zeros_like(info.costs[n]) for n in self.decays}
        return State(vector, self.optimizer.init(vector), costs)

    def starts(self, key: Key, data: Data) -> Array:
        """Parameters of every start."""

        def start(key: Key) -> Array:
            return ravel(_initial(self.plan, key, data))

        return jax.vmap(start)(numbered(key, STARTS, self.num_starts))

    def centre(self, init: Values, data: Data) -> Values:
        """Where values of some sites lead the centre of the starts."""
        analysis, names = self.full.analysis, self.plan.drawn
        kwargs = analysis.arguments.bind(data)
        return self.plan.guide.centre(analysis, names, kwargs, init)

    def screen(self, vectors: Array, key: Key, data: Data) -> Array:
        """Bound of every start."""

        def bound(vector: Array) -> Array:
            params = unravel(vector, self.like)
            of_bound = jax.random.fold_in(key, SCREEN_STREAM)
            return self.objective(params, of_bound, data)[1].elbo

        return jax.lax.map(bound, vectors)

    def draws(
        self, params: Params, key: Key, first: Any, data: Data, *, values: bool
    ) -> Draw:
        """A batch of draws."""

        def one(key: Key) -> Draw:
            return draw(self.full, params, key, data, values=values)

        return jax.vmap(one)(numbered(key, first, self.batch))

    def probe(self, params: Params, key: Key, data: Data) -> tuple[Any, Params]:
        """Terms and gradients of many draws."""

        def one(key: Key) -> tuple[Any, Params]:
            value = jax.value_and_grad(self.objective, has_aux=True)
            (_, info), gradient = value(params, key, data)
            return info.terms, gradient

        return jax.lax.map(one, jax.random.split(key, PROBES))


def _key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
