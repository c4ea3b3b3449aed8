"""Operations that cut, shift, turn or join arrays: the rules that make windows.

Each rule takes an equation of a jaxpr, the influences on its inputs and what is known
of their values, and returns the influences on its outputs. Starts and indices that
are not known mix the axes that they move.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from bbvi.analysis.counting import Known, Turns, single
from bbvi.analysis.windows import (
    Aligned,
    Influences,
    Loop,
    Target,
    join,
    mixed,
    move,
    reversal,
    transposed,
    union,
)

Reads = Sequence[Influences]
Values = Sequence[Known | None]


def slices(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.slice`: what is kept moves to the start, in strides."""
    starts = eqn.params["start_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)

    def place(a: int) -> Target:
        return Aligned(a, -starts[a], -starts[a], strides[a])

    return [move(reads[0], place)]


def split(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.split`: slices side by side."""
    axis, sizes = eqn.params["axis"], eqn.params["sizes"]
    starts = list(accumulate(sizes, initial=0))[:-1]
    return [
        move(reads[0], lambda a, s=s: Aligned(a, -s, -s) if a == axis else a)
        for s in starts
    ]


def pad(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.pad`: shifts by what stands before, spreads by what stands between."""
    config = eqn.params["padding_config"]

    def place(a: int) -> Target:
        low, _, inner = config[a]
        return Aligned(a, low, low, step=inner + 1)

    return [join(move(reads[0], place), reads[1])]


def reverse(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.rev`: axes run backwards."""
    shape = eqn.invars[0].aval.shape

    def place(a: int) -> Target:
        return reversal(a, shape[a]) if a in eqn.params["dimensions"] else a

    return [move(reads[0], place)]


def concatenate(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.concatenate`: each operand shifts by those before it.

    What is cut off at one end and put on at the other goes round.
    """
    axis = eqn.params["dimension"]
    sizes = [var.aval.shape[axis] for var in eqn.invars]
    starts = accumulate(sizes, initial=0)
    return [
        union(
            (
                move(read, lambda a, s=s: Aligned(a, s, s) if a == axis else a)
                for read, s in zip(reads, starts, strict=False)
            ),
            rings={axis: sum(sizes)},
        )
    ]


def dynamic_slice(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.dynamic_slice`: as a slice where the start is known."""
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]

    def place(a: int) -> Target:
        return _window(a, values[1 + a], shape[a], sizes[a])

    return [join(move(reads[0], place), mixed(union(reads[1:])))]


def dynamic_update_slice(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.dynamic_update_slice`: the operand stays, the update moves to its start."""
    shape, sizes = (var.aval.shape for var in eqn.invars[:2])

    def place(a: int) -> Target:
        start, last = single(values[2 + a]), shape[a] - sizes[a]
        start = 0 if last == 0 else start
        if start is None:
            return None
        start = min(max(start, 0), last)
        return Aligned(a, start, start)

    update = move(reads[1], place)
    return [join(join(reads[0], update), mixed(union(reads[2:])))]


def _window(axis: int, start: Known | None, size: int, length: int) -> Target:
    """Where an axis goes from which ``length`` elements are taken from a start on.

    The start is clamped so that they lie inside, as `lax` does.
    """
    last = size - length
    return _placed(start, last, length, [], axis) if last else axis


def gather(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.gather`: index axes go where they are laid out; known indices give windows.

    An axis of the operand that is taken whole keeps its elements in place.
    """
    numbers = eqn.params["dimension_numbers"]
    from_operand, from_indices = _layout(
        eqn.invars[0].aval.shape,
        values[1],
        eqn.params["slice_sizes"],
        gone=(*numbers.collapsed_slice_dims, *numbers.operand_batching_dims),
        named=numbers.start_index_map,
        paired=(numbers.operand_batching_dims, numbers.start_indices_batching_dims),
        taken=numbers.offset_dims,
        out_rank=len(eqn.outvars[0].aval.shape),
    )
    return [join(move(reads[0], from_operand.get), move(reads[1], from_indices.get))]


def scatter(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.scatter` and its kin: updates go where a gather would have read them."""
    numbers = eqn.params["dimension_numbers"]
    operand, _, updates = (var.aval.shape for var in eqn.invars)
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    sizes = [1] * len(operand)
    kept = [a for a in range(len(operand)) if a not in gone]
    for a, b in zip(kept, sorted(numbers.update_window_dims), strict=True):
        sizes[a] = updates[b]
    to_updates, _ = _layout(
        operand,
        values[1],
        sizes,
        gone=gone,
        named=numbers.scatter_dims_to_operand_dims,
        paired=(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims),
        taken=numbers.update_window_dims,
        out_rank=len(updates),
    )
    from_updates: dict[Any, Target] = {}
    for a, place in to_updates.items():
        if place is not None:
            place = place if isinstance(place, Aligned) else Aligned(place)
            from_updates.setdefault(place.axis, transposed(place, a))
    return [
        join(join(reads[0], mixed(reads[1])), move(reads[2], from_updates.get)),
    ]


def _layout(
    operand: Sequence[int],
    indices: Known | None,
    sizes: Sequence[int],
    *,
    gone: Sequence[int],
    named: Sequence[int],
    paired: tuple[Sequence[int], Sequence[int]],
    taken: Sequence[int],
    out_rank: int,
) -> tuple[dict[int, Target], dict[int, Target]]:
    """Where the axes of a gather's operand and of its indices go.

    Args:
        operand: Its shape.
        indices: What is known of them.
        sizes: Of a slice.
        gone: Axes of the operand that slices do not have.
        named: Axes of the operand that the indices stand for.
        paired: Axes of the operand and of the indices that run along each other.
        taken: Axes of the result that run along slices.
        out_rank: Number of axes of the result.
    """
    batch = [a for a in range(out_rank) if a not in taken]
    window = [a for a in range(len(operand)) if a not in gone]
    offset = dict(zip(window, sorted(taken), strict=True))
    from_indices: dict[int, Target] = dict(enumerate(batch))
    from_operand = {a: from_indices.get(i) for a, i in zip(*paired, strict=True)}
    for a in range(len(operand)):
        if sizes[a] == operand[a] and a in offset:
            from_operand[a] = offset[a]
        elif a in named:
            at = _column(indices, named.index(a))
            last = operand[a] - sizes[a]
            from_operand[a] = _placed(at, last, sizes[a], batch, offset.get(a))
    return from_operand, from_indices


def _column(indices: Known | None, number: int) -> Known | None:
    return indices[..., number] if isinstance(indices, np.ndarray) else indices


def _placed(
    at: Known | None, last: int, length: int, batch: list[int], offset: int | None
) -> Target:
    """The narrowest window of an axis that is read from known starts on.

    Args:
        at: The start at every index of the batch, ``(*batch)``.
        last: The last start that keeps the slice inside.
        length: Elements from there on.
        batch: The axes of the result along which the starts lie.
        offset: The axis of the result that runs along the slice, if it has one.
    """
    if at is None:
        return None
    axes: list[int | Loop] = list(batch)
    if isinstance(at, Turns):
        at, axes = at.values, [at.loop]
    starts = np.clip(at, 0, last).astype(np.int64)
    places = []
    for a, axis in enumerate(axes):
        lines = np.moveaxis(starts, a, -1)
        for stride, step, period in _slopes(lines, last + length):
            ahead = stride * np.arange(lines.shape[-1]) - step * lines
            low, high = _arc(ahead, period)
            rest = sorted((0, -step * (length - 1)))
            ends = (low + rest[0], high + rest[1])
            places.append(Aligned(axis, *ends, stride, step, period))
    if offset is not None:
        places.append(Aligned(offset, -int(starts.max()), -int(starts.min())))
    return min(places, key=lambda place: place.width, default=None)


def _slopes(starts: np.ndarray, size: int) -> Iterator[tuple[int, int, int]]:
    """Stride, step and period with which starts in an axis of a size may grow.

    By one, or as from end to end if all keep to that, or by one round a ring.
    """
    yield 1, 1, 0
    run = starts.shape[-1] - 1
    rise = int(starts.flat[run]) - int(starts.flat[0])
    if run and rise:
        stride, step = max(round(abs(rise) / run), 1), max(round(run / abs(rise)), 1)
        step = step if rise > 0 else -step
        if np.ptp(stride * np.arange(run + 1) - step * starts) < abs(step):
            yield stride, step, 0
    if 2 * np.ptp(np.arange(run + 1) - starts) >= size:
        yield 1, 1, size
        yield 1, -1, size


def _arc(places: np.ndarray, period: int) -> tuple[int, int]:
    """Ends of the shortest interval, or arc of a circle, that holds all places."""
    if not period:
        return int(places.min()), int(places.max())
    on_circle = np.unique(places % period)
    gaps = np.diff(on_circle, append=on_circle[:1] + period)
    last = int(np.argmax(gaps))
    return int(on_circle[last] + gaps[last]) - period, int(on_circle[last])


def convolution(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.conv_general_dilated`: spatial axes of the left operand get windows."""
    params = eqn.params
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        return [mixed(union(reads))]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    kernel = eqn.invars[1].aval.shape
    places: dict[int, Target] = {lhs[0]: out[0]}
    for n, axis in enumerate(lhs[2:]):
        places[axis] = _slid(
            out[2 + n],
            params["padding"][n],
            kernel[rhs[2 + n]],
            params["rhs_dilation"][n],
            params["window_strides"][n],
            params["lhs_dilation"][n],
        )
    weights = {rhs[0]: out[1]}
    return [join(move(reads[0], places.get), move(reads[1], weights.get))]


def reduce_window(eqn: Any, reads: Reads, values: Values) -> list[Influences]:
    """`lax.reduce_window`: a sum, maximum or minimum over a sliding window."""
    params = eqn.params

    def place(a: int) -> Target:
        return _slid(
            a,
            params["padding"][a],
            params["window_dimensions"][a],
            params["window_dilation"][a],
            params["window_strides"][a],
            params["base_dilation"][a],
        )

    found = move(union(reads), place)
    return [found] * len(eqn.outvars)


def _slid(
    axis: int, padding: Any, size: int, dilation: int, stride: int, base_dilation: int
) -> Target:
    """Result ``o`` reads at ``stride o - padding + k dilation``, k from 0 to size-1.

    Element ``i`` stands at ``base_dilation i``.
    """
    low = padding[0]
    return Aligned(axis, low - (size - 1) * dilation, low, stride, base_dilation)
