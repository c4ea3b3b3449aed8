"""Does a log density that may jump really do so? Settled with numbers on the CPU.

The program is traced once more, in 64 bits and from unconstrained space, where the
supports of sites hold by themselves, and its possible breaks
(`bbvi.analysis.smoothness`) are put to the test along segments of plausible values
(`bbvi.analysis.segments`). What cannot be decided counts as a jump.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from bbvi._types import Array
from bbvi.analysis.arguments import Arguments
from bbvi.analysis.fingerprints import fingerprint
from bbvi.analysis.primitives import equations
from bbvi.analysis.replaying import replay
from bbvi.analysis.segments import Probes, Suspect, settle_all
from bbvi.analysis.smoothness import FLIPS, STOPS, Break, breaks_of, rounding
from bbvi.analysis.structure import Jump, Parameter, Plate, Site
from bbvi.analysis.tracing import log_density, run, sample_sites, scaled

MEMORY = 2**21
"""Numbers that a batch of points may hold at once."""
BATCH = 256
"""Points in the largest batch."""
SMALL = 2**17
"""Numbers in a point below which compiling takes longer than evaluating."""
LARGE = 2**20
"""Numbers in a point above which evaluations are few."""
KEPT = 32
"""Number of programs whose compiled evaluation is kept."""
SPREAD = 1.5
"""Of plausible unconstrained values where a distribution does not say."""

_kept: OrderedDict[str, Callable[..., Any]] = OrderedDict()


class Program(NamedTuple):
    """A model or a guide whose log densities are looked at.

    Attributes:
        function: The NumPyro program.
        arguments: Its arguments.
        sites: Its latent sites, or a guide's statements.
        parameters: Its ``numpyro.param`` sites.
        plates: Its plates.
        density: Unsummed log density of a traced site.
    """

    function: Callable[..., Any]
    arguments: Arguments
    sites: Mapping[str, Site]
    parameters: Mapping[str, Parameter]
    plates: Mapping[str, Plate]
    density: Callable[[Mapping[str, Any]], Array] = log_density


def find_jumps(
    program: Program, closed: Any, latents: list[str], terms: list[str]
) -> dict[str, Jump]:
    """Continuous sites along which a program's log density jumps, and where.

    Args:
        program: The model or guide.
        closed: Jaxpr from the values of its sites to its cost terms.
        latents: Names of the leading inputs.
        terms: Names of the leading outputs.

    Returns:
        ``{site: jump}``. Cost: a walk over the jaxpr; where it leaves anything in
        doubt, one trace, one compilation and some thousand evaluations of the log
        density, and another compilation if the doubt is about a derivative. Where
        data are known by their shapes alone, all that is in doubt counts as a jump.
    """
    found = possible_jumps(closed, latents, terms, program.sites)
    if not found:
        return {}
    traced = any(isinstance(const, jax.core.Tracer) for const in closed.consts)
    jumps = all_jumps(latents, found)
    if program.arguments.has_values and not traced:
        # Else a break stands where it cannot be followed, or a callback fails.
        with suppress(NotImplementedError, jax.errors.JaxRuntimeError):
            jumps = settle(program)
    return {name: jumps[name] for name in program.sites if name in jumps}


def possible_jumps(
    closed: Any, latents: list[str], terms: list[str], sites: Mapping[str, Site]
) -> dict[str, list[Break]]:
    """Breaks that reach each cost term, supports that hold by themselves left out.

    A value lies in its own site's support, unless that moves, so that asking for it in
    the site's own density breaks nothing.

    Args:
        closed: Jaxpr from latents, and other inputs, to terms, and other outputs.
        latents: Names of its leading inputs.
        terms: Names of its leading outputs.
        sites: Latent sites by name.

    Returns:
        ``{term: breaks}`` for the terms that have any.
    """
    left = {}
    for term, breaks in zip(terms, breaks_of(closed, len(latents)), strict=False):
        holds = term in sites and sites[term].static_support
        own = 1 << latents.index(term) if holds and term in latents else 0
        kept = [b for b in breaks if not (b.is_support and b.inputs == own)]
        if kept:
            left[term] = kept
    return left


def all_jumps(latents: list[str], found: Mapping[str, list[Break]]) -> dict[str, Jump]:
    """Every possible break as a jump, by latent."""
    jumps: dict[str, Jump] = {}
    for term, breaks in found.items():
        for broken in breaks:
            jump = Jump(broken.kind, broken.primitive, broken.line, term)
            for i, name in enumerate(latents):
                if broken.inputs >> i & 1:
                    jumps.setdefault(name, jump)
    return jumps


def settle(program: Program) -> dict[str, Jump]:
    """Latents along which a program's log density jumps, and where.

    Args:
        program: The model or guide.

    Returns:
        ``{site: jump}``. Cost: one trace, one compilation and some thousand
        evaluations of the log density; another compilation if a derivative is in
        doubt.

    Raises:
        NotImplementedError: A break stands where it cannot be followed.
    """
    with jax.default_device(_cpu()):
        try:
            with jax.enable_x64(True):  # noqa: FBT003
                return _Settling(program).jumps()
        except (TypeError, ValueError):  # it mixes types that differ in 64 bits
            return _Settling(program).jumps()


class _Settling:
    """One program, traced in 64 bits, and the functions that evaluate it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        sites = program.sites
        self.moved = sorted(n for n, s in sites.items() if not s.is_discrete)
        self.shapes = {
            n: tuple(biject_to(sites[n].support).inverse_shape(sites[n].shape))
            for n in self.moved
        }
        self.arrays = jax.tree.map(_values, program.arguments.arrays)
        points = {n: np.zeros(shape) for n, shape in self.shapes.items()}
        inputs = self.draw(np.random.default_rng(0))
        self.closed, shape = jax.make_jaxpr(self.outputs, return_shape=True)(
            points, inputs, self.arrays
        )
        self.terms = sorted(shape["cost"])
        consts = [_on_host(const) for const in self.closed.consts]
        self.closed = ClosedJaxpr(self.closed.jaxpr, consts)

    def outputs(self, points: Any, inputs: Any, arrays: Any) -> dict[str, Any]:
        """Cost terms, summed, and where priors lie, at unconstrained ``points``."""
        program, sites = self.program, self.program.sites
        values = dict(inputs["values"])
        for name, parameter in program.parameters.items():
            to = biject_to(parameter.constraint)
            values[name] = jax.tree.map(to, inputs["parameters"][name])
        for name, point in points.items():
            if sites[name].static_support:
                values[name] = biject_to(sites[name].support)(point)

        def moving(message: dict[str, Any]) -> Any:
            name = message["name"]
            if message["type"] != "sample" or name in values or name not in points:
                return None
            return biject_to(message["fn"].support)(points[name])

        function = handlers.substitute(program.function, substitute_fn=moving)
        key = jax.random.key(inputs["seed"])
        trace = run(function, program.arguments.bind(arrays), key, values)
        costs = {
            name: jnp.sum(scaled(program.density(site), site))
            for name, site in sample_sites(trace).items()
        }
        where = {n: _plausible(trace[n]["fn"], self.shapes[n]) for n in self.moved}
        return {"cost": costs, "where": where}

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Random values of what stays: discrete sites, rows of plates, parameters."""
        program, values = self.program, {}
        for name, site in program.sites.items():
            if site.is_discrete:
                counts = rng.poisson(rng.choice([0.5, 3.0, 20.0]), site.shape)
                known = site.values
                drawn = counts if known is None else rng.choice(known, site.shape)
                values[name] = np.asarray(drawn, site.dtype)
        for name, plate in program.plates.items():
            if plate.is_subsampled:
                rows = rng.permutation(plate.size)[: plate.subsample_size]
                values[name] = rows.astype(np.int32)
        parameters = {
            name: jax.tree.map(partial(_normal, rng, p.constraint), p.shape)
            for name, p in program.parameters.items()
        }
        seed = np.uint32(rng.integers(2**31))
        return {"values": values, "parameters": parameters, "seed": seed}

    def jumps(self) -> dict[str, Jump]:
        """The breaks that are jumps, by site."""
        found = possible_jumps(self.closed, self.moved, self.terms, self.program.sites)
        reached: dict[Break, list[int]] = {}
        for term, breaks in found.items():
            for broken in breaks:
                reached.setdefault(broken, []).append(self.terms.index(term))
        proved = [(b, t[0]) for b, t in reached.items() if b.kind == STOPS]
        suspects = [Suspect(b, tuple(t)) for b, t in reached.items() if b.kind != STOPS]
        if suspects:
            flips = [s.broken.place for s in suspects if s.broken.kind == FLIPS]
            proved += settle_all(self.probes(flips), suspects)
        decided: dict[str, list[Break]] = {}
        for broken, term in proved:
            decided.setdefault(self.terms[term], []).append(broken)
        return all_jumps(self.moved, decided)

    def probes(self, flips: list[Any]) -> Probes:
        """Compiled functions of batches of points."""
        marked = replay(self.closed, {place: i for i, place in enumerate(flips)})
        plain, num_terms = jaxpr_as_fun(self.closed), len(self.terms)
        moved = self.moved  # alone: what is kept shall not hold the data

        def evaluate(points: Any, inputs: Any, arrays: Any) -> Any:
            outs, marks = marked(*jax.tree.leaves((points, inputs, arrays)))
            rest = iter(outs[num_terms:])
            where = {n: (next(rest), next(rest)) for n in moved}
            return jnp.stack(outs[:num_terms]), marks, where

        def slope(kept: Any, points: Any, inputs: Any, to: Any, arrays: Any) -> Array:
            def total(points: Any) -> Array:
                outs = plain(*jax.tree.leaves((points, inputs, arrays)))
                return sum((outs[i] for i in kept), jnp.zeros(()))

            gradient = jax.grad(total)(points)
            return sum(jnp.sum(gradient[n] * to[n]) for n in points)

        axes, arrays, size = (0, 0, None), self.arrays, _size(self.closed.jaxpr)
        options = {"xla_backend_optimization_level": 0} if size <= SMALL else {}
        identity = fingerprint(self.closed, self.moved, self.terms, flips)
        if identity not in _kept:
            mapped = jax.vmap(evaluate, axes)
            _kept[identity] = jax.jit(mapped, compiler_options=options)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        values = _kept[identity]

        @cache
        def slopes(kept: tuple[int, ...]) -> Callable[..., Array]:
            mapped = jax.vmap(partial(slope, kept), (0, *axes))
            return jax.jit(mapped, compiler_options=options)

        return Probes(
            evaluate=lambda points, inputs: values(points, inputs, arrays),
            slope=lambda kept, *point: slopes(kept)(*point, arrays),
            draw=self.draw,
            shapes=self.shapes,
            batch=max(1, min(BATCH, MEMORY // max(size, 1))),
            is_large=size > LARGE,
            precision=rounding(self.closed, len(self.moved)),
        )


def _cpu() -> Any:
    """The host's CPU, or None if JAX was told not to use it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _on_host(const: Any) -> Any:
    """A constant of a program where the CPU can reach it."""
    if isinstance(const, jax.core.Tracer):
        raise NotImplementedError("the program holds a value that is being traced")
    is_key = jax.dtypes.issubdtype(const.dtype, jax.dtypes.prng_key)
    return const if is_key else np.asarray(const)


def _values(array: Any) -> np.ndarray:
    """An array in the widest type that is on."""
    array = np.asarray(array)
    wide = array.dtype.kind == "f" and jax.config.jax_enable_x64
    return array.astype(np.float64) if wide else array


def _normal(rng: np.random.Generator, constraint: Any, leaf: Any) -> Any:
    return rng.normal(size=biject_to(constraint).inverse_shape(leaf.shape))


def _plausible(fn: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Centre and spread of a site given its parents, unconstrained."""
    centre, spread = jnp.zeros(shape), jnp.full(shape, SPREAD)
    support = fn.support
    try:
        mean = biject_to(support).inv(jnp.broadcast_to(fn.mean, fn.shape()))
        mean = jnp.broadcast_to(mean, shape)
        centre = jnp.where(jnp.isfinite(mean), mean, centre)
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if isinstance(support, (type(constraints.real), type(constraints.real_vector))):
            deviation = jnp.sqrt(jnp.broadcast_to(fn.variance, shape))
            known = jnp.isfinite(deviation) & (deviation > 0)
            spread = jnp.where(known, deviation, spread)
    except Exception:  # noqa: S110
        pass  # moments are only a hint, and a distribution may raise what it likes
    return centre, spread


def _size(jaxpr: Any) -> int:
    """Numbers that one evaluation makes, roughly."""
    made = ((v, n) for e, n in equations(jaxpr) for v in e.outvars)
    return sum(n * prod(v.aval.shape) for v, n in made)
