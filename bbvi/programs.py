"""The compiled programs of a fit, kept so that a second fit compiles nothing.

A fit needs at most four: `screen` its starts, run a `chunk` of steps, `measure` log
densities of draws, and `sample` draws themselves. All take the data as arguments.
Programs are kept by what they compute (the text of guide, model and optimizer as JAX
sees them), not by which function object was passed, so that a model defined anew
compiles nothing either, and one whose global data changed does compile.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bbvi._types import INIT_STREAM, START_STREAM, Array, Data, Key, Params
from bbvi.analysis import Arguments
from bbvi.analysis.analyzing import fingerprint
from bbvi.drawing import Draw, draw, whole
from bbvi.estimators import ScoreFunction
from bbvi.joint import initial_params
from bbvi.objective import Objective
from bbvi.optimize.loop import Chunk, State, make_chunk
from bbvi.planning import Plan

KEPT = 32
"""Number of fits whose programs are kept."""
MEMORY = 2**23
"""Numbers that a batch of draws may hold at once."""

FRESH = 2**31
"""First batch of draws that no candidate of an optimisation was compared on."""
PROBES = 256
"""Draws that are looked at for what is not finite."""
EXPLORABLE = 30_000
"""Numbers in a draw up to which every start runs some steps before one is followed."""
SMALL = 10_000
"""Numbers in a step below which compiling takes longer than running."""

_compilers = ThreadPoolExecutor(max_workers=3, thread_name_prefix="bbvi-compile")
_kept: OrderedDict[Any, "Programs"] = OrderedDict()


@dataclass(frozen=True)
class Programs:
    """Compiled functions of one plan; all are pure and jitted.

    Attributes:
        explores: Whether steps are so cheap that every start runs some of them.
        screen: ``(key, data) -> (state, elbo)`` of every start; the bound is left at 0
            if the starts are explored anyway.
        chunk: See `bbvi.optimize.loop.make_chunk`.
        measure: ``(params, key, index, data) -> Draw``, batch ``index`` of ``batch``
            draws, without values.
        sample: The same draws with their values.
        probe: ``(params, key, data) -> (terms, gradient)`` of many draws, to find what
            is not finite; compiled only then.
        batch: Draws that are made at once.
        size: Numbers that one draw needs, roughly.
    """

    explores: bool
    screen: Callable[[Key, Data], tuple[State, Array]]
    chunk: Chunk
    measure: Callable[[Params, Key, Any, Data], Draw]
    sample: Callable[[Params, Key, Any, Data], Draw]
    probe: Callable[[Params, Key, Data], tuple[dict[str, Array], Params]]
    batch: int
    size: int


def programs_of(
    plan: Plan,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    num_starts: int,
) -> Programs:
    """The programs of a plan, compiled before if an equal plan was fitted before."""
    identity = (
        plan.analysis.fingerprint,
        plan.fingerprint,
        repr(plan.choices),
        repr(type(plan.guide)),
        plan.num_particles,
        _start_fingerprint(plan, optimizer),
        num_steps,
        num_starts,
        jax.config.jax_enable_x64,
    )
    if identity not in _kept:
        plans = (_without_data(plan), _without_data(whole(plan)))
        _kept[identity] = _make(*plans, optimizer, num_steps, num_starts)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(identity)
    return _kept[identity]


def _start_fingerprint(plan: Plan, optimizer: optax.GradientTransformation) -> str:
    """Of the parameters' initial values, and of the optimizer on such parameters."""
    arguments = plan.analysis.arguments

    def start(key: Key, arrays: Data) -> Params:
        kwargs = arguments.bind(arrays)
        return initial_params(
            plan.analysis.model, plan.program, plan.parameters, kwargs, key
        )

    begun, params = jax.make_jaxpr(start, return_shape=True)(
        _key_shape(), arguments.shapes
    )

    def update(params: Params) -> Any:
        return optimizer.update(params, optimizer.init(params), params)

    return fingerprint(begun) + fingerprint(jax.make_jaxpr(update)(params))


def _without_data(plan: Plan) -> Plan:
    """The plan with shapes in the place of arrays, fit for keeping."""
    arguments = plan.analysis.arguments
    lean = Arguments(arguments.shapes, arguments.static)
    return replace(plan, analysis=replace(plan.analysis, arguments=lean))


def _make(
    plan: Plan,
    full: Plan,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    num_starts: int,
) -> Programs:
    objective = Objective(plan)
    decays = {
        name: plan.choices[name].estimator.decay
        for name in plan.sites_of(ScoreFunction)
        if plan.num_particles == 1
    }
    size = full.analysis.num_elements
    batch = int(np.clip(MEMORY // size, 1, 1_000))
    is_small = size * plan.num_particles <= SMALL
    options = _compiler_options() if is_small else {}

    explores = num_starts > 1 and size <= EXPLORABLE
    zero_costs = partial(_zero_costs, objective, decays)

    def screen(key: Key, data: Data) -> tuple[State, Array]:
        kwargs = plan.analysis.arguments.bind(data)

        def start(key: Key) -> tuple[State, Array]:
            init_key = jax.random.fold_in(key, INIT_STREAM)
            params = initial_params(
                plan.analysis.model, plan.program, plan.parameters, kwargs, init_key
            )
            state = State(params, optimizer.init(params), zero_costs(params, data))
            if explores:
                return state, jnp.zeros(())
            return state, objective(params, key, data)[1].elbo

        key = jax.random.fold_in(key, START_STREAM)
        keys = jax.random.split(key, num_starts)
        return jax.vmap(start)(keys) if is_small else jax.lax.map(start, keys)

    def draws(
        params: Params, key: Key, index: Any, data: Data, *, values: bool
    ) -> Draw:
        keys = jax.random.split(jax.random.fold_in(key, index), batch)
        return jax.vmap(lambda k: draw(full, params, k, data, values=values))(keys)

    def probe(params: Params, key: Key, data: Data) -> tuple[Any, Params]:
        def one(key: Key) -> tuple[Any, Params]:
            value = jax.value_and_grad(objective, has_aux=True)
            (_, info), gradient = value(params, key, data)
            return info.terms, gradient

        return jax.lax.map(one, jax.random.split(key, PROBES))

    steps = make_chunk(objective, optimizer, plan.guide.retract, num_steps, decays)
    key, data = _key_shape(), plan.analysis.arguments.shapes
    screened = jax.jit(screen).trace(key, data)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), screened.out_info[0]
    )
    count, rate = np.uint32(0), np.float32(0)
    measure = partial(draws, values=False)
    return Programs(
        explores=explores,
        screen=_Ahead(screened, options),
        chunk=_Ahead(jax.jit(steps).trace(state, key, count, rate, data), options),
        measure=_Ahead(jax.jit(measure).trace(state.params, key, count, data), options),
        sample=jax.jit(partial(draws, values=True), compiler_options=options),
        probe=jax.jit(probe),
        batch=batch,
        size=size,
    )


def _zero_costs(
    objective: Objective, decays: dict[str, float], params: Params, data: Data
) -> dict[str, Array]:
    """Where running averages of costs begin."""
    if not decays:
        return {}
    _, info = jax.eval_shape(objective, params, _key_shape(), data)
    return {n: jnp.zeros(info.costs[n].shape, info.costs[n].dtype) for n in decays}


def _key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


class _Ahead:
    """A function that is compiled on another thread until it is called.

    The compiler works outside of Python, so the programs of a fit are compiled side by
    side while the next ones are traced.
    """

    def __init__(self, traced: Any, options: dict[str, Any]) -> None:
        compiling = traced.lower().compile
        self._compiled = _compilers.submit(compiling, compiler_options=options)

    def __call__(self, *args: Any) -> Any:
        return self._compiled.result()(*args)


def _compiler_options() -> dict[str, Any]:
    """For small models, where compiling is the cost: less effort of the compiler.

    Its optimised loops only pay once arrays are large; `benchmarks/` has the figures.
    """
    is_cpu = jax.default_backend() == "cpu"
    return {"xla_backend_optimization_level": 0} if is_cpu else {}


def batched(
    function: Callable[[Params, Key, Any, Data], Draw],
    params: Params,
    key: Key,
    data: Data,
    num_batches: int,
    first: int = FRESH,
) -> Draw:
    """Several batches of draws, as NumPy arrays, ``(num_batches * batch, ...)``."""
    made = [
        jax.device_get(function(params, key, np.uint32(index), data))
        for index in range(first, first + num_batches)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *made)
