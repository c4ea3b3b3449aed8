"""`ELBO`: the same estimators as a loss of NumPyro's `SVI`.

A loss of NumPyro is called with model, guide, constrained parameters and arguments,
most often while JAX traces an update. A plan needs their shapes alone, so it is made
right there, and kept for the next call.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer.elbo
from numpyro import handlers

from bbvi._keys import beside
from bbvi._types import Array, Key, Params, Values
from bbvi.analysis import Arguments
from bbvi.analysis.analyzing import examine
from bbvi.analysis.structure import name_of
from bbvi.analysis.tracing import Trace, run
from bbvi.estimators import Estimator
from bbvi.objective import Objective, minibatch
from bbvi.planning import Plan, make_plan

KEPT = 16
"""Number of plans that a loss keeps."""


class ELBO(numpyro.infer.elbo.ELBO):
    """The negative ELBO as a loss of `numpyro.infer.SVI`, with sound gradients.

    Model and guide stay as they are: a function with ``numpyro.param`` and
    ``numpyro.sample``, or an AutoGuide. Every statement of the guide gets its own
    estimator, as `bbvi.plan` chooses it. Finite discrete sites that the guide leaves
    out are summed out of the model; no ``enumerate`` marks are needed. All particles
    see the same minibatch, and plate scales enter once.

    Data are not checked for NaN, or for observations outside the support of their
    distribution, as `bbvi.analyze` does: most often they are traced, and known by their
    shapes only. A log density that may jump along a continuous site is settled with
    numbers within ``svi.run``; under ``jax.jit(svi.update)`` there are none, and what
    may jump gets a score function, which needs no derivative.

    Cost: of `bbvi.loss`, and about five abstract traces of model and guide for each
    new pair of them and each new set of shapes. Model and guide are taken for pure, as
    by `jax.jit`: one that reads a global which changes needs a new ``ELBO()``. Arrays
    outside of any `jax.jit` are constants to it, so ``jax.jit(svi.update)``, or each
    new minibatch is planned for anew.

    Args:
        num_particles: Draws of the guide a step; default as `bbvi.plan` has it. A score
            function has no baseline with one: the gradient is unbiased, but noisy.
        estimators: Overrides by site, see `bbvi.plan`.

    Raises:
        PlanError: By an update, where there is no sound plan: the guide misses a
            latent that cannot be summed out, or an override is unsound.
        ValueError: By an update, where the model cannot be traced abstractly.

    Example:
        >>> import bbvi, jax, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import SVI
        >>> def model(y):
        ...     z = numpyro.sample("z", dist.Bernoulli(0.3))
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(mu + 2.0 * z, 1.0), obs=y)
        >>> def guide(y):
        ...     numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.0), 0.5))
        >>> svi = SVI(model, guide, numpyro.optim.Adam(0.05), loss=bbvi.ELBO())
        >>> result = svi.run(jax.random.key(0), 20, 1.5, progress_bar=False)
        >>> svi.loss.plan(result.params, model, guide, 1.5).marginalized
        ('z',)
    """

    can_infer_discrete = True

    def __init__(
        self,
        num_particles: int | None = None,
        *,
        estimators: Mapping[str, Estimator] | None = None,
    ) -> None:
        super().__init__()
        self.num_particles = num_particles
        self.estimators = dict(estimators or {})
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()

    def plan(
        self,
        param_map: Params,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Plan:
        """The plan that the loss follows with these arguments; print it."""
        return self._planned(model, guide, _read_call(model, args, kwargs, param_map))

    def loss(
        self,
        rng_key: Key,
        param_map: Params,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Array:
        """The negative ELBO; its gradient in ``param_map`` is unbiased."""
        call = _read_call(model, args, kwargs, param_map)
        objective = Objective(self._planned(model, guide, call))
        return objective.at(param_map, rng_key, call.arrays)[0]

    def loss_with_mutable_state(
        self,
        rng_key: Key,
        param_map: Params,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """`loss`, and what the first particle leaves at ``numpyro.mutable`` sites.

        All runs of a step start from the same state. Cost: one further run of both.

        Raises:
            NotImplementedError: The model has such a state and sites that are summed
                out, so that there is no draw to take its state from.
        """
        call = _read_call(model, args, kwargs, param_map)
        plan = self._planned(model, guide, call)
        value, _ = Objective(plan).at(param_map, rng_key, call.arrays)
        return {
            "loss": value,
            "mutable_state": _next_state(plan, call, rng_key, param_map),
        }

    def _planned(
        self, model: Callable[..., Any], guide: Callable[..., Any], call: "_Call"
    ) -> Plan:
        identity = (id(model), id(guide), jax.config.jax_enable_x64, *call.identity)
        if identity not in self._plans:
            arguments = Arguments(call.stand_ins, call.constants)
            model, guide = (
                _of_leaves(program, call.structure, call.names)
                for program in (model, guide)
            )
            with jax.ensure_compile_time_eval():
                analysis = examine(model, arguments, checked=False)
                plan = make_plan(analysis, guide, self.estimators, self.num_particles)
            self._plans[identity] = plan
            while len(self._plans) > KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(identity)
        return self._plans[identity]


class _Call(NamedTuple):
    """What model and guide are run with, taken apart into its leaves.

    Attributes:
        structure: Pytree of ``(args, kwargs, parameters)``.
        names: Of its leaves.
        arrays: Leaves that are traced, and all parameters.
        parameters: Names of the latter.
        constants: The other leaves.
    """

    structure: Any
    names: tuple[str, ...]
    arrays: Values
    parameters: frozenset[str]
    constants: dict[str, Any]

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
            for name, x in self.arrays.items()
        }

    @property
    def stand_ins(self) -> dict[str, Any]:
        """What stands for the arrays in a plan; parameters are given on their own."""
        return {
            name: np.ones(x.shape, x.dtype) if name in self.parameters else x
            for name, x in self.shapes.items()
        }

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """Equal for calls that have one plan, as long as their leaves live."""
        shapes = tuple((n, x.shape, x.dtype) for n, x in self.shapes.items())
        constants = tuple((n, _value_or_id(x)) for n, x in self.constants.items())
        return self.structure, shapes, constants


def _read_call(
    model: Callable[..., Any], args: Any, kwargs: Any, param_map: Params
) -> _Call:
    leaves, structure = jax.tree.flatten_with_path((args, kwargs, param_map))
    positions = _positions(model, len(args))
    names, arrays, parameters, constants = [], {}, [], {}
    for (part, first, *rest), leaf in leaves:
        if part.idx == 0:
            name = positions[first.idx]
        elif part.idx == 1:
            name = first.key
        else:
            name = f"parameter {first.key}"
            parameters.append(name + jax.tree_util.keystr(tuple(rest)))
        name += jax.tree_util.keystr(tuple(rest))
        names.append(name)
        traced = part.idx == 2 or isinstance(leaf, jax.core.Tracer)
        (arrays if traced else constants)[name] = leaf
    return _Call(structure, tuple(names), arrays, frozenset(parameters), constants)


def _of_leaves(
    program: Callable[..., Any], structure: Any, names: tuple[str, ...]
) -> Callable[..., Any]:
    """The program as a function of a call's leaves, parameters and state given."""

    @wraps(program, updated=())
    def taking(**leaves: Any) -> Any:
        found = [leaves[name] for name in names]
        args, kwargs, params = jax.tree.unflatten(structure, found)
        with handlers.substitute(data=params):
            return program(*args, **kwargs)

    taking.__name__ = name_of(program)
    return taking


def _positions(model: Callable[..., Any], number: int) -> list[str]:
    """Names of positional arguments, in the model's own words where it has them."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    names = [p.name for p in parameters if p.kind in kinds][:number]
    return names + [f"argument {i}" for i in range(len(names), number)]


def _value_or_id(leaf: Any) -> Hashable:
    if isinstance(leaf, bool | int | float | complex | str | bytes):
        return type(leaf), leaf
    return id(leaf)


def _next_state(
    plan: Plan, call: _Call, key: Key, param_map: Params
) -> dict[str, Any] | None:
    """What one run of guide and model leaves at their ``numpyro.mutable`` sites."""
    kwargs = plan.analysis.arguments.bind(call.arrays)
    given = {**param_map, **minibatch(plan, key)}
    if plan.num_particles > 1:
        key = beside(key, plan.num_particles)[0]
    guide = run(plan.program, kwargs, key, given)
    draws = {name: guide[name]["value"] for name in plan.nodes}
    model = run(plan.analysis.model, kwargs, key, {**given, **draws})
    if plan.marginalized and (state := _state_of(model)):
        raise NotImplementedError(
            f"{name_of(plan.analysis.model)} has mutable state ({', '.join(state)}) "
            f"and sites that are summed out ({', '.join(plan.marginalized)}), so there "
            f"is no draw to take its state from: draw them in the guide"
        )
    return {**_state_of(guide), **_state_of(model)} or None


def _state_of(trace: Trace) -> dict[str, Any]:
    return {n: site["value"] for n, site in trace.items() if site["type"] == "mutable"}
