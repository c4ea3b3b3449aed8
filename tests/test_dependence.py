"""The walk that says which elements influence which: tight where listed, sound always.

Soundness is checked against the function itself: whenever changing element i of the
latent changes element j of the output, the influence must allow it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bbvi.analysis.dependence import influences
from bbvi.analysis.windows import Aligned

Z = jax.ShapeDtypeStruct((2, 3), jnp.float32)
Z3 = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
CHAIN = jax.ShapeDtypeStruct((7,), jnp.float32)
GRID = jax.ShapeDtypeStruct((6, 5), jnp.float32)
FLOATS = (Z, CHAIN, GRID)
INDEX = jax.ShapeDtypeStruct((2, 3), jnp.int32)
DATA = np.linspace(-1.0, 2.0, 6, dtype=np.float32).reshape(2, 3)
MATRIX = np.linspace(-1.0, 2.0, 15, dtype=np.float32).reshape(3, 5)


def influence_of(function, *latents):
    """Influence of the first latent on the first output; `()` if it has none."""
    closed = jax.make_jaxpr(function)(*latents)
    names = ["z", "w"][: len(latents)]
    return influences(closed, names)[0].get("z", ())


def entries(*expected):
    """Entries of an influence; an axis alone is aligned without an offset."""
    return tuple(
        e if e is None else Aligned(e) if isinstance(e, int) else Aligned(*e)
        for e in expected
    )


def allows(entry, element, index):
    """Whether an element may touch an index, by the definition of an entry."""
    if entry is None:
        return True
    offset = entry.stride * index[entry.axis] - entry.step * element
    if entry.period:
        offset = (offset - entry.low) % entry.period + entry.low
    return entry.low <= offset <= entry.high


def at_counter(*offsets):
    """What NumPyro's `scan` does: read an array at a counter that it carries."""

    def program(z):
        def body(i, x):
            return i + 1, sum(z[i + offset] for offset in offsets) + x

        turns = z.shape[0] - max(offsets)
        return lax.scan(body, -min(*offsets, 0), jnp.zeros(turns + min(*offsets, 0)))[1]

    return program


def positive_matrix(z):
    return z[..., None, None] * jnp.ones((4, 4)) + 9 * jnp.eye(4)


# {id: (function of the latent, latent, expected influence)}
TIGHT = {
    "identity": (lambda z: z, Z, (0, 1)),
    "elementwise": (lambda z: jnp.exp(z) + jnp.sin(z) * DATA, Z, (0, 1)),
    "no influence": (lambda z: jnp.asarray(DATA), Z, ()),
    "shape only": (lambda z: jnp.zeros_like(z) + DATA, Z, ()),
    "broadcast to the left": (lambda z: jnp.broadcast_to(z, (5, 2, 3)), Z, (1, 2)),
    "broadcast in an operation": (lambda z: z[:, None, :] + MATRIX.T, Z, (0, 2)),
    "expand dims": (lambda z: jnp.expand_dims(z, (0, 2)), Z, (1, 3)),
    "sum over the other axis": (lambda z: z.sum(0), Z, (None, 0)),
    "sum keeping dims": (lambda z: z.sum(1, keepdims=True), Z, (0, None)),
    "mean, max and min": (lambda z: z.mean(1) + z.max(1) - z.min(1), Z, (0, None)),
    "argmax": (lambda z: z.argmax(1), Z, (0, None)),
    "any": (lambda z: (z > 0).any(0), Z, (None, 0)),
    "transpose": (lambda z: z.T, Z, (1, 0)),
    "moveaxis": (lambda z: jnp.moveaxis(z, 0, 2), Z3, (2, 0, 1)),
    "index": (lambda z: z[1], Z, (None, 0)),
    "slice": (lambda z: z[:, 1:], Z, (0, (1, -1, -1))),
    "slice from the end": (lambda z: z[-3:-1], CHAIN, ((0, -4, -4),)),
    "slice with a stride": (lambda z: z[:, ::2], Z, (0, (1, 0, 0, 2))),
    "slice with a stride of a slice with one": (
        lambda z: z[1::2][1::3],
        jax.ShapeDtypeStruct((20,), jnp.float32),
        ((0, -3, -3, 6),),
    ),
    "pairs": (lambda z: z[1::2] - z[:-1:2], CHAIN, ((0, -1, 0, 2),)),
    "coarse grid": (
        lambda z: z[:-1:2, ::2] * z[1::2, ::2],
        GRID,
        ((0, -1, 0, 2), (1, 0, 0, 2)),
    ),
    "strides of two kinds": (lambda z: z[::2] + z[:4], CHAIN, (None,)),
    "flip": (lambda z: z[::-1], CHAIN, ((0, 6, 6, 1, -1),)),
    "flip and back": (lambda z: jnp.flip(z[::-1]), CHAIN, (0,)),
    "flipped neighbours": (
        lambda z: (z[1:] * z[:-1])[::-1],
        CHAIN,
        ((0, 5, 6, 1, -1),),
    ),
    "slice backwards with a stride": (lambda z: z[::-2], CHAIN, ((0, 6, 6, 2, -1),)),
    "palindrome": (lambda z: z + z[::-1], CHAIN, (None,)),
    "neighbours": (lambda z: z[1:] * z[:-1], CHAIN, ((0, -1, 0),)),
    "neighbours in a grid": (
        lambda z: z[1:, :] * z[:-1, :],
        GRID,
        ((0, -1, 0), 1),
    ),
    "corners of a grid": (
        lambda z: z[1:, 1:] * z[:-1, 1:] * z[1:, :-1] * z[:-1, :-1],
        GRID,
        ((0, -1, 0), (1, -1, 0)),
    ),
    "difference": (lambda z: jnp.diff(z, axis=1), GRID, (0, (1, -1, 0))),
    "split": (lambda z: jnp.split(z, [2, 5])[1], CHAIN, ((0, -2, -2),)),
    "pad": (lambda z: jnp.pad(z, ((0, 0), (1, 2))), Z, (0, (1, 1, 1))),
    "pad, negative": (
        lambda z: lax.pad(z, 0.0, ((-2, 1, 0),)),
        CHAIN,
        ((0, -2, -2),),
    ),
    "pad between elements": (
        lambda z: lax.pad(z, 0.0, ((1, 0, 1),)),
        CHAIN,
        ((0, 1, 1, 1, 2),),
    ),
    "pad between elements and cut": (
        lambda z: lax.pad(z, 0.0, ((0, 0, 1),))[::2],
        CHAIN,
        (0,),
    ),
    "pad between elements, neighbours": (
        lambda z: jnp.diff(lax.pad(z, 0.0, ((0, 0, 2),))),
        CHAIN,
        ((0, -1, 0, 1, 3),),
    ),
    "lag by pad and cut": (
        lambda z: z + jnp.pad(z, (1, 0))[:-1],
        CHAIN,
        ((0, 0, 1),),
    ),
    "lag by concatenation": (
        lambda z: z * jnp.concatenate([jnp.zeros(1), z[:-1]]),
        CHAIN,
        ((0, 0, 1),),
    ),
    "concatenate with data in front": (
        lambda z: jnp.concatenate([DATA, z], 0),
        Z,
        ((0, 2, 2), 1),
    ),
    "slices joined again": (
        lambda z: jnp.concatenate([z[:3], z[3:]]),
        CHAIN,
        (0,),
    ),
    "halves swapped": (
        lambda z: jnp.concatenate([z[3:], z[:3]]),
        CHAIN,
        ((0, -3, -3, 1, 1, 7),),
    ),
    "roll": (lambda z: jnp.roll(z, 1), CHAIN, ((0, 1, 1, 1, 1, 7),)),
    "ring": (lambda z: z * jnp.roll(z, 1), CHAIN, ((0, 0, 1, 1, 1, 7),)),
    "ring, both sides": (
        lambda z: jnp.roll(z, 1) + z * jnp.roll(z, -1),
        CHAIN,
        ((0, -1, 1, 1, 1, 7),),
    ),
    "ring backwards": (
        lambda z: (z * jnp.roll(z, 2))[::-1],
        CHAIN,
        ((0, -3, -1, 1, -1, 7),),
    ),
    "ring and back": (lambda z: jnp.roll(jnp.roll(z, 3), -3), CHAIN, (0,)),
    "ring cut open": (lambda z: (z * jnp.roll(z, 1))[1:], CHAIN, ((0, -1, 0),)),
    "ring that is never closed": (
        lambda z: jnp.roll(jnp.pad(z, (0, 2)), 2) + jnp.pad(z, (0, 2)),
        CHAIN,
        ((0, 0, 2),),
    ),
    "torus": (
        lambda z: z * jnp.roll(z, 1, 0) * jnp.roll(z, -1, 1),
        GRID,
        ((0, 0, 1, 1, 1, 6), (1, -1, 0, 1, 1, 5)),
    ),
    "ring by places": (
        lambda z: z + z[(jnp.arange(7) + 1) % 7],
        CHAIN,
        ((0, -1, 0, 1, 1, 7),),
    ),
    "ring by places backwards": (
        lambda z: z[(3 - np.arange(7)) % 7],
        CHAIN,
        ((0, 3, 3, 1, -1, 7),),
    ),
    "before or zero": (
        lambda z: z + jnp.where(jnp.arange(7) > 0, z[jnp.arange(7) - 1], 0),
        CHAIN,
        ((0, 0, 1),),
    ),
    "two before or zero, in rows": (
        lambda z: jnp.where(jnp.arange(6)[:, None] > 1, z[jnp.arange(6) - 2], 0) - z,
        GRID,
        ((0, 0, 2), 1),
    ),
    "after or zero": (
        lambda z: z * jnp.where(jnp.arange(7) < 6, z[(jnp.arange(7) + 1) % 7], 1),
        CHAIN,
        ((0, -1, 0),),
    ),
    "never chosen": (lambda z: jnp.where(jnp.arange(7) < 0, z, 1.0), CHAIN, ()),
    "gather at known places": (
        lambda z: z[np.array([1, 0, 3, 2])],
        CHAIN,
        ((0, -1, 1),),
    ),
    "gather at known places after a sum": (
        lambda z: z[jnp.arange(5) + 2] + z[jnp.arange(5)],
        CHAIN,
        ((0, -2, 0),),
    ),
    "gather at wide places": (
        lambda z: z[np.array([0, 6, 0])],
        CHAIN,
        ((0, 0, 2, 1, 1, 7),),
    ),
    "gather at places all over": (
        lambda z: z[np.array([0, 3, 6, 2, 5, 1, 4])],
        CHAIN,
        (None,),
    ),
    "gather at every other place": (
        lambda z: z[2 * np.arange(3) + 1],
        CHAIN,
        ((0, -1, -1, 2),),
    ),
    "gather backwards": (lambda z: z[6 - np.arange(7)], CHAIN, ((0, 6, 6, 1, -1),)),
    "gather of repeats": (
        lambda z: z[np.arange(14) // 2],
        CHAIN,
        ((0, 0, 1, 1, 2),),
    ),
    "gather at a clipped index": (
        lambda z: z * z[jnp.maximum(jnp.arange(7) - 1, 0)],
        CHAIN,
        ((0, 0, 1),),
    ),
    "set shifted": (lambda z: z.at[1:].set(z[:-1]), CHAIN, ((0, 0, 1),)),
    "add shifted": (lambda z: jnp.zeros(9).at[2:].add(z), CHAIN, ((0, 2, 2),)),
    "set shifted columns": (
        lambda z: z.at[:, 1:].set(z[:, :-1]),
        GRID,
        (0, (1, 0, 1)),
    ),
    "set a row": (lambda z: jnp.zeros((9, 5)).at[2].set(z[0]), GRID, (None, 1)),
    "set rows": (
        lambda z: jnp.zeros((9, 5)).at[np.arange(6) + 1].set(z),
        GRID,
        ((0, 1, 1), 1),
    ),
    "add in strides": (
        lambda z: jnp.zeros(14).at[1::2].add(z),
        CHAIN,
        ((0, 1, 1, 1, 2),),
    ),
    "multiply at known places": (
        lambda z: z.at[np.arange(3) * 2].multiply(z[:6:2]),
        CHAIN,
        (0,),
    ),
    "set backwards": (
        lambda z: jnp.zeros(7).at[6 - jnp.arange(7)].set(z),
        CHAIN,
        ((0, 6, 6, 1, -1),),
    ),
    "set round a ring": (
        lambda z: jnp.zeros(7).at[(jnp.arange(7) + 2) % 7].set(z),
        CHAIN,
        ((0, 2, 2, 1, 1, 7),),
    ),
    "set diagonals": (
        lambda z: jnp.zeros((7, 7)).at[np.arange(7), np.arange(7)].set(z),
        CHAIN,
        (0,),
    ),
    "sums of pairs": (
        lambda z: jax.ops.segment_sum(z, np.arange(7) // 2, 4),
        CHAIN,
        ((0, -1, 0, 2),),
    ),
    "vmapped set": (
        jax.vmap(lambda r: jnp.zeros(6).at[np.arange(5) + 1].set(r)),
        GRID,
        (0, (1, 1, 1)),
    ),
    "set at the places of data": (
        lambda z: z.at[jnp.asarray(DATA[0]).astype(int)].set(z[:3]),
        CHAIN,
        (None,),
    ),
    "set of windows": (
        lambda z: jnp.zeros(9).at[np.arange(7)[:, None] + np.arange(2)].add(z[:, None]),
        CHAIN,
        ((0, 0, 1),),
    ),
    "gather of windows": (
        lambda z: z[jnp.arange(5)[:, None] + jnp.arange(3)[None]],
        CHAIN,
        ((0, -2, 0),),
    ),
    "gather at the places of data": (
        lambda z: z[jnp.asarray(DATA[0]).astype(int)],
        CHAIN,
        (None,),
    ),
    "diagonal": (lambda z: z[jnp.arange(5), jnp.arange(5)], GRID, (0, None)),
    "sliding sum": (
        lambda z: lax.reduce_window(z, 0.0, lax.add, (3, 1), (1, 1), "SAME"),
        GRID,
        ((0, -1, 1), 1),
    ),
    "convolution": (
        lambda z: jnp.convolve(z, jnp.ones(3), "same"),
        CHAIN,
        ((0, -1, 1),),
    ),
    "causal convolution": (
        lambda z: jnp.convolve(z, jnp.ones(2), "full")[:-1],
        CHAIN,
        ((0, 0, 1),),
    ),
    "convolution with a stride": (
        lambda z: lax.conv(z[None, None], jnp.ones((1, 1, 3)), (2,), "SAME")[0, 0],
        CHAIN,
        ((0, -1, 1, 2),),
    ),
    "stack": (lambda z: jnp.stack([z, 2 * z], 1), Z, (0, 2)),
    "reshape of a window": (
        lambda z: (z[1:] * z[:-1]).reshape(5, 1, 5),
        GRID,
        ((0, -1, 0), 2),
    ),
    "window cut to one index and stretched": (
        lambda z: z[:1] + jnp.zeros(4),
        CHAIN,
        (None,),
    ),
    "window cut to one index, stretched unasked": (
        lambda z: lax.add(z[1:2], jnp.zeros(4)),
        CHAIN,
        (None,),
    ),
    "window as wide as the latent": (lambda z: z[:1] + z[1:], Z, ((0, -1, 0), 1)),
    "window wider than the latent": (
        lambda z: jnp.concatenate([z, z[:1]]),
        Z,
        (None, 1),
    ),
    "gather from data": (lambda z: jnp.arange(4.0)[z], INDEX, (0, 1)),
    "gather rows of data": (lambda z: jnp.ones((4, 5))[z], INDEX, (0, 1)),
    "gather columns of data": (lambda z: jnp.ones((5, 4))[:, z], INDEX, (1, 2)),
    "gather with two indices": (
        lambda z: jnp.ones((4, 5))[jnp.arange(2)[:, None], z],
        INDEX,
        (0, 1),
    ),
    "take along an axis": (
        lambda z: jnp.take_along_axis(jnp.ones((2, 7)), z, 1),
        INDEX,
        (0, 1),
    ),
    "gather rows of the latent": (
        lambda z: z[:, np.array([1, 0])],
        Z,
        (0, (1, 1, 1, 1, -1)),
    ),
    "one hot": (lambda z: jax.nn.one_hot(z, 4), INDEX, (0, 1)),
    "matrix product, free axis": (lambda z: z @ MATRIX, Z, (0, None)),
    "matrix product from the left": (lambda z: MATRIX.T @ z.T, Z, (1, None)),
    "batched product": (
        lambda z: jnp.einsum("ij,ijk->ijk", z, np.ones((2, 3, 5))),
        Z,
        (0, 1),
    ),
    "batched contraction": (
        lambda z: jnp.einsum("bij,bjk->bik", z, np.ones((2, 5, 4))),
        Z3,
        (0, 1, None),
    ),
    "free axis on the right": (
        lambda z: jnp.einsum("aj,ij->ai", np.ones((7, 3)), z),
        Z,
        (1, None),
    ),
    "vmap": (jax.vmap(lambda row: row.sum()), Z, (0, None)),
    "vmap of the last axis": (jax.vmap(jnp.sum, in_axes=1), Z, (None, 0)),
    "vmapped gather": (jax.vmap(lambda row: jnp.arange(4.0)[row]), INDEX, (0, 1)),
    "vmap in vmap": (
        jax.vmap(jax.vmap(lambda row: row.sum(), in_axes=0), in_axes=1),
        Z3,
        (1, 0, None),
    ),
    "jit": (jax.jit(lambda z: jax.jit(jnp.exp)(z) + 1), Z, (0, 1)),
    "checkpoint": (jax.checkpoint(lambda z: jnp.sin(z)), Z, (0, 1)),
    "relu": (jax.nn.relu, Z, (0, 1)),
    "softplus": (jax.nn.softplus, Z, (0, 1)),
    "logsumexp": (lambda z: jax.nn.logsumexp(z, 1), Z, (0, None)),
    "softmax": (lambda z: jax.nn.softmax(z, 0), Z, (None, 1)),
    "gammaln and betaln": (lambda z: jax.scipy.special.gammaln(z + 3), Z, (0, 1)),
    "where": (lambda z: jnp.where(z > 0, z, -z), Z, (0, 1)),
    "clip": (lambda z: jnp.clip(z, 0, 1), Z, (0, 1)),
    "cast": (lambda z: (z > 0).astype(int) * 2.0, Z, (0, 1)),
    "cumsum along the other axis": (lambda z: jnp.cumsum(z, 1), Z, (0, None)),
    "sort along the other axis": (lambda z: jnp.sort(z, 1), Z, (0, None)),
    "top_k": (lambda z: lax.top_k(z, 2)[0], Z, (0, None)),
    "concatenate the other axis": (lambda z: jnp.concatenate([z, z], 1), Z, (0, None)),
    "roll the other axis": (lambda z: jnp.roll(z, 1, 1), Z, (0, (1, 1, 1, 1, 1, 3))),
    "flip the other axis": (lambda z: z[:, ::-1], Z, (0, (1, 2, 2, 1, -1))),
    "dynamic slice": (
        lambda z: lax.dynamic_slice(z, (0, 1), (2, 1)),
        Z,
        (0, (1, -1, -1)),
    ),
    "dynamic slice, start clamped": (
        lambda z: lax.dynamic_slice(z, (6,), (4,)),
        CHAIN,
        ((0, -3, -3),),
    ),
    "dynamic slice at data": (
        lambda z: lax.dynamic_slice(z, (jnp.asarray(DATA)[0, 0].astype(int),), (4,)),
        CHAIN,
        (None,),
    ),
    "dynamic update": (
        lambda z: lax.dynamic_update_slice(jnp.zeros(9), z[1:3], (5,)),
        CHAIN,
        ((0, 4, 4),),
    ),
    "reshape that keeps axes": (lambda z: z.reshape(2, 1, 3), Z, (0, 2)),
    "reshape that joins the others": (lambda z: z.reshape(2, 15), Z3, (0, None, None)),
    "reshape of the first two": (lambda z: z.reshape(6, 5), Z3, (None, None, 1)),
    "squeeze": (lambda z: z.reshape(1, 2, 3).squeeze(0), Z, (0, 1)),
    "cholesky of a batch": (
        lambda z: jnp.linalg.cholesky(positive_matrix(z)),
        Z,
        (0, 1),
    ),
    "triangular solve of a batch": (
        lambda z: jax.scipy.linalg.solve_triangular(
            jnp.broadcast_to(jnp.eye(4), (2, 3, 4, 4)), positive_matrix(z), lower=True
        ),
        Z,
        (0, 1),
    ),
    "scan without memory": (
        lambda z: lax.scan(lambda c, row: (c, jnp.exp(row)), 0.0, z)[1],
        Z,
        (0, 1),
    ),
    "scan with a memory of data": (
        lambda z: lax.scan(
            lambda c, x: (c + x[1], c * x[0]), 0.0, (z, jnp.arange(2.0))
        )[1],
        Z,
        (0, 1),
    ),
    "scan in reverse": (
        lambda z: lax.scan(lambda c, row: (c, row), 0.0, z, reverse=True)[1],
        Z,
        (0, 1),
    ),
    "scan that carries the rows": (
        lambda z: lax.scan(lambda c, row: (c + row, c), jnp.zeros(3), z)[1],
        Z,
        (None, 1),
    ),
    "scan that reads the row before": (
        lambda z: lax.scan(lambda c, row: (row, c * row), jnp.zeros(5), z)[1],
        GRID,
        ((0, 0, 1), 1),
    ),
    "scan that reads two rows before": (
        lambda z: lax.scan(
            lambda c, row: ((row, c[0]), c[1]), (jnp.zeros(5), jnp.zeros(5)), z
        )[1],
        GRID,
        ((0, 2, 2), 1),
    ),
    "scan of lag four": (
        lambda z: lax.scan(lambda c, x: (jnp.append(c[1:], x), c[0]), jnp.zeros(4), z)[
            1
        ],
        CHAIN,
        (None,),
    ),
    "scan with four carries": (
        lambda z: lax.scan(lambda c, x: ((x, *c[:3]), c[3]), (0.0,) * 4, z)[1],
        CHAIN,
        ((0, 4, 4),),
    ),
    "scan with too long a memory": (
        lambda z: lax.scan(lambda c, x: ((x, *c[:5]), c[5]), (0.0,) * 6, z)[1],
        CHAIN,
        (None,),
    ),
    "scan in reverse that reads the row after": (
        lambda z: lax.scan(lambda c, x: (x, c + x), 0.0, z, reverse=True)[1],
        CHAIN,
        ((0, -1, 0),),
    ),
    "scan, last carry": (
        lambda z: lax.scan(lambda c, row: (row, 0.0), jnp.zeros(5), z)[0],
        GRID,
        (None, 0),
    ),
    "scan of no turns, last carry": (
        lambda z: lax.scan(lambda c, row: (row, 0.0), z[0], z[:0])[0],
        GRID,
        (None, 0),
    ),
    "scan whose last carry forgets": (
        lambda z: lax.scan(lambda c, x: (x, 0.0), z[:2], jnp.ones((3, 2)))[0],
        CHAIN,
        (),
    ),
    "scan of a scan's lag": (
        lambda z: lax.scan(
            lambda c, row: (row, lax.scan(lambda d, x: (x, x + d), 0.0, c + row)[1]),
            jnp.zeros(5),
            z,
        )[1],
        GRID,
        ((0, 0, 1), (1, 0, 1)),
    ),
    "scan at a counter": (at_counter(0), CHAIN, (0,)),
    "scan at a counter and the one before": (at_counter(0, -1), GRID, ((0, -1, 0), 1)),
    "scan at a counter and beyond": (at_counter(0, 1, 2), CHAIN, ((0, -2, 0),)),
    "scan at an index that is scanned": (
        lambda z: lax.scan(lambda c, t: (c, z[t]), 0.0, jnp.arange(1, 7))[1],
        CHAIN,
        ((0, -1, -1),),
    ),
    "scan at a counter from 1": (
        lambda z: lax.scan(lambda i, _: (i + 1, z[i - 1]), 1, None, length=7)[1],
        CHAIN,
        (0,),
    ),
    "scan at a counter modulo": (
        lambda z: lax.scan(lambda i, _: (i + 1, z[i % 7]), 0, None, length=7)[1],
        CHAIN,
        (0,),
    ),
    "scan at a counter by twos": (
        lambda z: lax.scan(lambda i, _: (i + 2, z[i]), 0, None, length=3)[1],
        CHAIN,
        ((0, 0, 0, 2),),
    ),
    "scan at a counter downwards": (
        lambda z: lax.scan(lambda i, _: (i - 1, z[i] * z[i - 1]), 6, None, length=6)[1],
        CHAIN,
        ((0, 5, 6, 1, -1),),
    ),
    "scan at a counter times two": (
        lambda z: lax.scan(lambda i, _: (i + 1, z[2 * i + 1]), 0, None, length=3)[1],
        CHAIN,
        ((0, -1, -1, 2),),
    ),
    "scan at a counter before or zero": (
        lambda z: lax.scan(
            lambda i, x: (i + 1, x * jnp.where(i > 0, z[i - 1], 0.0)), 0, z
        )[1],
        CHAIN,
        ((0, 0, 1),),
    ),
    "scan at a counter round a ring": (
        lambda z: lax.scan(lambda i, x: (i + 1, x * z[(i + 1) % 7]), 0, z)[1],
        CHAIN,
        ((0, -1, 0, 1, 1, 7),),
    ),
    "scan at half a counter": (
        lambda z: lax.scan(lambda i, _: (i + 1, z[i >> 1]), 0, None, length=7)[1],
        CHAIN,
        (None,),
    ),
    "scan at a counter in reverse": (
        lambda z: lax.scan(
            lambda i, x: (i + 1, z[i]), 0, jnp.arange(7.0), reverse=True
        )[1],
        CHAIN,
        ((0, 6, 6, 1, -1),),
    ),
    "scan in reverse at a counter and the one before": (
        lambda z: lax.scan(
            lambda i, x: (i + 1, z[i] - z[i - 1]), 1, jnp.arange(6.0), reverse=True
        )[1],
        CHAIN,
        ((0, 5, 6, 1, -1),),
    ),
    "scan in reverse at a counter that is carried on": (
        lambda z: lax.scan(
            lambda c, x: ((c[0] + 1, z[c[0]]), z[c[0]] * c[1]),
            (0, 0.0),
            jnp.arange(7.0),
            reverse=True,
        )[1],
        CHAIN,
        ((0, 5, 6, 1, -1),),
    ),
    "scan in reverse at a counter downwards": (
        lambda z: lax.scan(
            lambda i, x: (i - 1, z[i]), 6, jnp.arange(7.0), reverse=True
        )[1],
        CHAIN,
        (0,),
    ),
    "scan at a counter that runs out": (
        lambda z: lax.scan(lambda i, _: (i + 1, z[i]), 3, None, length=7)[1],
        CHAIN,
        ((0, -3, 0),),
    ),
    "scan at a carried constant": (
        lambda z: lax.scan(lambda i, t: (i, z[i + t]), 2, jnp.arange(3))[1],
        CHAIN,
        ((0, -2, -2),),
    ),
    "scan along the diagonal": (
        lambda z: lax.scan(lambda i, _: (i + 1, z[i, i]), 0, None, length=5)[1],
        GRID,
        (0, None),
    ),
    "scan of windows at a counter": (
        lambda z: lax.scan(
            lambda i, _: (i + 1, lax.dynamic_slice(z, (i,), (3,))), 0, None, length=5
        )[1],
        CHAIN,
        ((0, -2, 0),),
    ),
    "fori loop that writes rows": (
        lambda z: lax.fori_loop(0, 7, lambda i, c: c.at[i].set(z[i]), jnp.zeros(7)),
        CHAIN,
        (None,),
    ),
    "scan over constants": (
        lambda z: lax.scan(lambda c, t: (c, z * t), 0.0, jnp.arange(4.0))[1],
        Z,
        (1, 2),
    ),
    "scan in scan": (
        lambda z: lax.scan(
            lambda c, row: (c, lax.scan(lambda d, x: (d, x + 1), 0.0, row)[1]), 0.0, z
        )[1],
        Z,
        (0, 1),
    ),
    "map": (lambda z: lax.map(jnp.sum, z), Z, (0, None)),
    "cond on data": (
        lambda z: lax.cond(jnp.asarray(DATA).sum() > 0, jnp.exp, lambda x: x, z),
        Z,
        (0, 1),
    ),
    "diagonal of an outer sum": (lambda z: z[:, :, None] + z[:, None, :], Z, (0, None)),
}

SOUND = {
    "vmapped reduction": jax.vmap(lambda r: jnp.cumsum(r)[-1] + r.max(), 1, 0),
    "sum of two orders": lambda z: z[:, :2] + z[:, :2].T,
    "reshape to one axis": lambda z: z.reshape(6),
    "reshape to swapped sizes": lambda z: z.reshape(3, 2),
    "reshape in order F": lambda z: z.reshape((3, 2), order="F"),
    "ravel and back": lambda z: z.ravel()[::-1].reshape(2, 3),
    "repeat": lambda z: jnp.repeat(z, 2, 0)[:2],
    "tile": lambda z: jnp.tile(z, (2, 1))[1:3],
    "slice with a stride": lambda z: z[::2, ::2],
    "difference": lambda z: jnp.diff(z, axis=1),
    "roll": lambda z: jnp.roll(z, 1, 0),
    "flip": lambda z: z[::-1],
    "rot90": lambda z: jnp.rot90(z),
    "pad and cut": lambda z: jnp.pad(z, ((1, 0), (0, 0)))[:2],
    "pad with the latent": lambda z: lax.pad(DATA, z[0, 0], ((0, 1, 0), (0, 0, 0))),
    "shift by negative padding": lambda z: lax.pad(z, 0.0, ((0, 0, 0), (-1, 1, 0))),
    "concatenate and cut": lambda z: jnp.concatenate([z[1:], z[:1]], 0),
    "stack": lambda z: jnp.stack([z[0], z[1]], 1),
    "sort": lambda z: jnp.sort(z, 0),
    "argsort": lambda z: jnp.argsort(z, 1),
    "sort by keys": lambda z: lax.sort((z[0], z[1]), num_keys=1)[1],
    "dynamic slice by the latent": lambda z: lax.dynamic_slice_in_dim(
        jnp.arange(9.0), z[0, 0].astype(int), 4
    ),
    "dynamic slice of the latent": lambda z: lax.dynamic_slice_in_dim(z, 1, 2, 1),
    "dynamic index": lambda z: z[z[0].argmax() % 2],
    "dynamic update": lambda z: lax.dynamic_update_slice(DATA, z[:1], (1, 0)),
    "dynamic update at the latent": lambda z: lax.dynamic_update_slice(
        DATA, z[:1], (z[1, 1].astype(int), 0)
    ),
    "at set": lambda z: z.at[0].set(z[1]),
    "at add": lambda z: jnp.zeros(4).at[jnp.array([0, 3, 0])].add(z[0]),
    "at the latent": lambda z: jnp.zeros(4).at[z[0].astype(int) % 4].add(1.0),
    "segment sum": lambda z: jax.ops.segment_sum(z, jnp.array([1, 1]), 3),
    "gather of the latent": lambda z: z[jnp.array([1, 0, 1])],
    "gather of swapped rows": lambda z: z[jnp.array([1, 0])],
    "gather of points": lambda z: z[jnp.array([1, 0]), jnp.array([2, 0])],
    "gather by itself": lambda z: z[0][z[1].astype(int) % 3],
    "gather by a transposed index": lambda z: jnp.arange(5.0)[z.T.astype(int) % 5],
    "take along its own axis": lambda z: jnp.take_along_axis(
        z, jnp.argsort(z, axis=1), 1
    ),
    "take along axis 0": lambda z: jnp.take_along_axis(z, jnp.argsort(z, axis=0), 0),
    "gather a batch": lambda z: jax.vmap(lambda r, i: r[i])(z, jnp.array([2, 0])),
    "vmapped rolls": lambda z: jax.vmap(jnp.roll)(z, jnp.array([1, 2])),
    "vmapped dynamic slices": lambda z: jax.vmap(
        lambda r, i: lax.dynamic_slice(r, (i,), (2,))
    )(z, jnp.array([0, 1])),
    "vmapped slices by the latent": lambda z: jax.vmap(
        lambda r: lax.dynamic_slice(r, (r[0].astype(int),), (2,))
    )(z),
    "vmapped update": lambda z: jax.vmap(lambda r: r.at[r.argmax()].set(9.0))(z),
    "vmapped transpose": lambda z: jax.vmap(lambda c: c + z[:, 0], 1, 1)(z),
    "while loop": lambda z: lax.while_loop(
        lambda c: c[1] < 3, lambda c: (jnp.roll(c[0], 1, 1), c[1] + 1), (z, 0)
    )[0],
    "while on the latent": lambda z: lax.while_loop(
        lambda c: c[1] < z[0, 0] * 3, lambda c: (c[0] + 1, c[1] + 1), (z, 0.0)
    )[0],
    "vmapped while": lambda z: jax.vmap(
        lambda r: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, r)
    )(z),
    "fori loop": lambda z: lax.fori_loop(0, 2, lambda i, c: c.at[i].add(z[1 - i]), z),
    "scan that remembers": lambda z: lax.scan(lambda c, r: (r, c), z[0], z)[1],
    "scan that sums": lambda z: lax.scan(lambda c, r: (c + r, c), z[0], z)[0],
    "reverse scan": lambda z: lax.scan(lambda c, r: (r, c), z[0], z, reverse=True)[1],
    "scan that rolls its carry": lambda z: lax.scan(
        lambda c, _: (jnp.roll(c, 1, 1), c[0]), z, None, length=4
    )[1],
    "scan that swaps carries": lambda z: lax.scan(
        lambda c, x: ((c[1], c[2], c[0] + x), c[0]), (0.0, 0.0, 0.0), z[0]
    )[0][0],
    "nested scan": lambda z: lax.scan(
        lambda c, r: lax.scan(lambda d, x: (x, c + d), c, r), 0.0, z
    )[1],
    "nested scan with rows outside": lambda z: lax.scan(
        lambda c, r: (c, lax.scan(lambda d, x: (d, x + r), 0.0, z)[1]), 0.0, z
    )[1],
    "scan of scan with two carries": lambda z: lax.scan(
        lambda c, r: lax.scan(lambda d, x: (d + x, d), c * 1.0, r), 0.0, z.T
    )[1],
    "scan with a counter as an index": lambda z: lax.scan(
        lambda i, _: (i + 1, z[1 - i % 2]), 0, None, length=2
    )[1],
    "vmapped scan": lambda z: jax.vmap(
        lambda r: lax.scan(lambda c, x: (x, c), 0.0, r)[1]
    )(z),
    "associative scan": lambda z: lax.associative_scan(jnp.multiply, z, axis=1),
    "cond on the latent": lambda z: lax.cond(
        z[0, 0] > 0, lambda x: x, lambda x: -x, jnp.asarray(DATA)
    ),
    "cond with a mixing branch": lambda z: lax.cond(
        DATA.sum() > 0, lambda x: jnp.roll(x, 1, 1), lambda x: x, z
    ),
    "switch on the latent": lambda z: lax.switch(
        jnp.clip(z[1, 1].astype(int), 0, 2), [jnp.sin, jnp.cos, jnp.exp], z
    ),
    "select by a scalar": lambda z: lax.select(z[0, 1] > 0, DATA, -DATA),
    "clamp by scalars": lambda z: lax.clamp(z[0, 0], jnp.asarray(DATA), z[0, 0] + 1),
    "convolution": lambda z: jnp.convolve(z[0], jnp.array([1.0, 2.0]), "same"),
    "convolution with the latent": lambda z: jnp.convolve(
        jnp.arange(5.0), z[1], "same"
    ),
    "pooling": lambda z: lax.reduce_window(z, 0.0, lax.add, (1, 2), (1, 1), "SAME"),
    "argmax": lambda z: z.argmax(0),
    "argmin of all": lambda z: z.argmin(),
    "top_k": lambda z: lax.top_k(z, 2)[1],
    "top_k along the first axis": lambda z: jax.vmap(
        lambda c: lax.top_k(c, 2)[0], 1, 1
    )(z),
    "cumulative product": lambda z: jnp.cumprod(z, 0),
    "cumulative maximum in reverse": lambda z: lax.cummax(z, 1, reverse=True),
    "cumulative logsumexp": lambda z: lax.cumlogsumexp(z, 1),
    "variance": lambda z: jnp.var(z, 0),
    "median": lambda z: jnp.median(z, 1),
    "norm of all": lambda z: jnp.linalg.norm(z) + DATA,
    "solve": lambda z: jnp.linalg.solve(z[:, :2] + 9 * jnp.eye(2), jnp.ones(2)),
    "solve for the latent": lambda z: jnp.linalg.solve(jnp.eye(2) * 2 + 1, z),
    "inverse": lambda z: jnp.linalg.inv(z[:, :2] + 9 * jnp.eye(2)),
    "cholesky": lambda z: jnp.linalg.cholesky(z @ z.T + jnp.eye(2)),
    "triangular solve": lambda z: jax.scipy.linalg.solve_triangular(
        jnp.array([[1.0, 0.0], [2.0, 3.0]]), z, lower=True
    ),
    "determinant": lambda z: jnp.linalg.slogdet(z[:, :2] + 9 * jnp.eye(2))[1],
    "eigenvalues": lambda z: jnp.linalg.eigvalsh(z @ z.T),
    "fft": lambda z: jnp.abs(jnp.fft.fft(z)),
    "outer product": lambda z: jnp.outer(z[0], z[1]),
    "gram matrix": lambda z: z.T @ z,
    "kronecker product": lambda z: jnp.kron(z, jnp.eye(2)),
    "einsum of the diagonal": lambda z: jnp.einsum("ii->i", z[:, :2]),
    "diagonal": lambda z: jnp.diagonal(z),
    "trace": lambda z: jnp.trace(z),
    "lower triangle": lambda z: jnp.tril(z) @ jnp.ones((3, 2)),
    "batched product with itself": lambda z: jnp.einsum("ij,ik->ijk", z, z),
    "meshgrid": lambda z: jnp.meshgrid(z[0], z[1])[0],
    "swap by split": lambda z: jnp.concatenate(jnp.split(z, 2)[::-1]),
    "searchsorted": lambda z: jnp.searchsorted(jnp.sort(z[0]), z[1]),
    "bits": lambda z: lax.bitcast_convert_type(z, jnp.int32) % 97,
    "random bits": lambda z: jax.random.normal(
        jax.random.fold_in(jax.random.key(0), z[0, 0].astype(int)), (3,)
    ),
    "gamma sampler": lambda z: jax.random.gamma(jax.random.key(0), jnp.exp(z)),
    "poisson sampler": lambda z: jax.random.poisson(jax.random.key(0), jnp.exp(z)),
    "bernoulli sampler": lambda z: jax.random.bernoulli(
        jax.random.key(0), jax.nn.sigmoid(z)
    ),
    "categorical sampler": lambda z: jax.random.categorical(jax.random.key(0), 3 * z),
    "permutation": lambda z: jax.random.permutation(jax.random.key(1), z, 1),
    "callback": lambda z: jax.pure_callback(
        lambda x: np.asarray(x)[::-1].copy(), Z, z, vmap_method="sequential"
    ),
    "custom vjp": lambda z: _custom(z),
    "linear transpose": lambda z: jax.linear_transpose(lambda x: x @ MATRIX, Z)(
        z @ MATRIX
    )[0],
    "gradient": lambda z: jax.grad(lambda x: jnp.sum(x[:, 1:] * x[:, :-1]))(z),
    "jvp": lambda z: jax.jvp(lambda x: jnp.roll(x, 1, 1), (z,), (z,))[1],
    "custom root": lambda z: lax.custom_root(
        lambda x: x - jnp.roll(z, 1, 1), z, lambda f, x: x - f(x), lambda g, y: y
    ),
}


@jax.custom_vjp
def _custom(z):
    return jnp.roll(z, 1, 1)


_custom.defvjp(lambda z: (_custom(z), None), lambda _, g: (g,))


def _with_reference(z):
    """A mutable array: what is written there must be found when it is read."""
    buffer = jax.new_ref(jnp.zeros((2, 3)))
    buffer[0] = z[1]
    return buffer[...]


def _with_reference_in_a_loop(z):
    buffer = jax.new_ref(jnp.zeros(3))

    def body(carry, row):
        buffer[...] = buffer[...] + jnp.roll(row, 1)
        return carry, buffer[...]

    return lax.scan(body, 0.0, z)[1]


def assert_sound(function, latent=Z, seed=0, num_bases=3, num_changes=3):
    """Fail if a change of an element of the latent shows where it is not allowed."""
    __tracebackhide__ = True
    closed = jax.make_jaxpr(function)(latent)
    found = influences(closed, ["z"])[0].get("z")
    return found, check_influence(function, found, latent, seed, num_bases, num_changes)


def check_influence(function, found, latent=Z, seed=0, num_bases=3, num_changes=3):
    """Change elements one by one; whether anything was seen to move."""
    __tracebackhide__ = True
    rng = np.random.default_rng(seed)
    changed = jax.jit(jax.vmap(function))
    positions = list(np.ndindex(latent.shape))
    bases = rng.normal(size=(num_bases, *latent.shape)).astype(np.float32)
    rows = []
    for base in bases:
        rows.append(base)
        for position in positions:
            for _ in range(num_changes):
                row = base.copy()
                row[position] = 2 * rng.normal()
                rows.append(row)
    values = np.asarray(changed(np.stack(rows)))
    blocks = np.split(values, num_bases)
    seen = False
    for block in blocks:
        # Lanes of a vector round otherwise than others; no influence is that small.
        differs = ~np.isclose(block[1:], block[0], rtol=1e-5, atol=1e-6, equal_nan=True)
        for index, position in enumerate(np.repeat(positions, num_changes, axis=0)):
            for place in np.argwhere(differs[index]):
                seen = True
                assert found is not None, f"{position} changes {place}: none found"
                for at, to in zip(position, found, strict=True):
                    assert allows(to, at, place), (
                        f"changing element {tuple(position)} changes {tuple(place)}, "
                        f"and the influence is {found}"
                    )
    return seen


@pytest.mark.parametrize("name", TIGHT)
def test_tight(name):
    function, latent, expected = TIGHT[name]
    assert influence_of(function, latent) == entries(*expected)


@pytest.mark.parametrize("name", [n for n, c in TIGHT.items() if c[1] in FLOATS])
def test_tight_is_sound(name):
    function, latent, _ = TIGHT[name]
    assert_sound(function, latent)


WINDOWS = [
    (name, axis, side)
    for name, (_, latent, expected) in TIGHT.items()
    for axis, entry in enumerate(expected)
    if latent in FLOATS and isinstance(entry, tuple) and entry[1] != entry[2]
    for side in ("low", "high")
]


@pytest.mark.parametrize(("name", "axis", "side"), WINDOWS)
def test_control_window_one_too_narrow(name, axis, side):
    """Each side of a window is needed: without it the check must fail."""
    function, latent, _ = TIGHT[name]
    found = list(influence_of(function, latent))
    shift = {"low": 1, "high": -1}[side]
    found[axis] = found[axis]._replace(**{side: getattr(found[axis], side) + shift})
    with pytest.raises(AssertionError, match="changing element"):
        check_influence(function, tuple(found), latent)


@pytest.mark.parametrize("name", SOUND)
def test_sound(name):
    _, seen = assert_sound(SOUND[name])
    assert seen, "this case never shows an influence, so it tests nothing"


@pytest.mark.skipif(not hasattr(jax, "new_ref"), reason="this JAX has no new_ref")
@pytest.mark.parametrize("function", [_with_reference, _with_reference_in_a_loop])
def test_mutable_arrays(function):
    assert_sound(function)


def test_numpy_integers_as_axes():
    """Parameters of equations may be NumPy ints; alignments stay plain ints."""
    found = influence_of(lambda z: lax.reduce_sum(z, axes=(np.int64(1),)), Z)
    assert found == entries(0, None)
    found = influence_of(lambda z: lax.transpose(z, tuple(np.argsort([1, 0]))), Z)
    assert found == entries(1, 0)
    assert all(type(entry.axis) is int for entry in found)
    found = influence_of(lambda z: z[:, np.int64(1) :], Z)
    assert all(type(number) is int for entry in found for number in entry)


def test_top_k_along_another_axis():
    if "axis" not in jax.make_jaxpr(lambda z: lax.top_k(z, 2))(Z).eqns[0].params:
        pytest.skip("this JAX has no axis of top_k")
    assert influence_of(lambda z: lax.top_k(z, 2, axis=0)[0], Z) == entries(None, 1)


def test_two_latents():
    closed = jax.make_jaxpr(lambda z, w: (z + w.T, z[0], w @ z))(
        Z, jax.ShapeDtypeStruct((3, 2), jnp.float32)
    )
    both, first, product = influences(closed, ["z", "w"])
    assert both == {"z": entries(0, 1), "w": entries(1, 0)}
    assert first == {"z": entries(None, 0)}
    assert product == {"z": entries(None, 1), "w": entries(0, None)}


def test_scalar_latent_reaches_all():
    closed = jax.make_jaxpr(lambda z: z * jnp.ones((2, 3)))(1.0)
    assert influences(closed, ["z"]) == [{"z": ()}]


def _below(which, x):
    """Rows of an array where a condition on their number holds, else zero."""
    return jnp.where(which.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0)


# Steps of random programs: functions of an array of one or two axes.
STEPS = {
    "sin": jnp.sin,
    "relu": jax.nn.relu,
    "where": lambda x: jnp.where(x > 0.1, x, 2 * x),
    "transpose": lambda x: x.T,
    "roll first": lambda x: jnp.roll(x, 1, 0),
    "roll last": lambda x: jnp.roll(x, 1, -1),
    "flip": lambda x: x[::-1],
    "cut first": lambda x: x[1:] if x.shape[0] > 1 else x,
    "cut last": lambda x: x[..., :-1] if x.shape[-1] > 1 else x,
    "stride": lambda x: x[::2],
    "stride last": lambda x: x[..., 1::2] if x.shape[-1] > 1 else x,
    "stride backwards": lambda x: x[::-2],
    "flip last": lambda x: x[..., ::-1],
    "pairs": lambda x: x[1::2] - x[:-1:2] if len(x) > 1 else x,
    "spread": lambda x: lax.pad(x, 0.5, [(1, 0, 1)] + [(0, 0, 0)] * (x.ndim - 1)),
    "torus": lambda x: x * jnp.roll(x, 1, 0),
    "torus backwards": lambda x: x * jnp.roll(x, -2, -1),
    "repeat": lambda x: jnp.repeat(x, 2, 0)[:9],
    "tile": lambda x: jnp.concatenate([x, x])[1 : len(x) + 1],
    "take every other": lambda x: x[np.arange((len(x) + 1) // 2) * 2],
    "take backwards": lambda x: x[len(x) - 1 - np.arange(len(x))],
    "take before": lambda x: x * x[np.arange(len(x)) - 1],
    "take clipped": lambda x: x * x[jnp.maximum(jnp.arange(len(x)) - 1, 0)],
    "before or zero": lambda x: (
        x + _below(jnp.arange(len(x)) > 0, x[jnp.arange(len(x)) - 1])
    ),
    "after or zero": lambda x: (
        x
        + _below(jnp.arange(len(x)) < len(x) - 1, x[(jnp.arange(len(x)) + 1) % len(x)])
    ),
    "masked": lambda x: _below(jnp.arange(len(x)) % 2 == 0, jnp.roll(x, 1, 0)),
    "set shifted": lambda x: x.at[1:].set(x[:-1]),
    "add shifted": lambda x: x.at[2:].add(jnp.sin(x[:-2])),
    "add at known": lambda x: x.at[np.arange(len(x) // 2) * 2].add(x[: len(x) // 2]),
    "add at the same": lambda x: x.at[np.arange(len(x)) // 2].add(x),
    "add in strides": lambda x: x.at[::2].add(x[: (len(x) + 1) // 2]),
    "multiply backwards": lambda x: x.at[len(x) - 1 - np.arange(len(x))].multiply(x),
    "apply": lambda x: x.at[1:].apply(jnp.sin),
    "largest of pairs": lambda x: x.at[np.arange(len(x)) // 2].max(x),
    "set last": lambda x: x.at[..., -1].set(x[..., 0]),
    "segments": lambda x: jax.ops.segment_sum(x, np.arange(len(x)) // 2, len(x)),
    "cut first from the end": lambda x: x[:-1] if x.shape[0] > 1 else x,
    "lag": lambda x: jnp.pad(x, [(1, 0)] + [(0, 0)] * (x.ndim - 1))[:-1],
    "lead last": lambda x: jnp.pad(x[..., 1:], [(0, 0)] * (x.ndim - 1) + [(0, 1)]),
    "neighbours": lambda x: x[1:] * x[:-1] if x.shape[0] > 1 else x,
    "neighbours last": lambda x: x[..., 1:] - x[..., :-1] if x.shape[-1] > 1 else x,
    "front": lambda x: jnp.concatenate([jnp.ones_like(x[:1]), x[:-1]]),
    "split": lambda x: jnp.split(x, [x.shape[0] // 2])[1] * 1.5 if x.size > 3 else x,
    "slide": lambda x: (
        jnp.convolve(x, jnp.arange(1.0, 4.0), "same") if x.ndim == 1 else x
    ),
    "pool": lambda x: lax.reduce_window(
        x, 0.0, lax.add, (2,) * x.ndim, (1,) * x.ndim, "SAME"
    ),
    "take known": lambda x: x[np.arange(x.shape[0] - 1) + 1] if len(x) > 1 else x,
    "take windows": lambda x: (
        x[np.arange(len(x) - 1)[:, None] + np.arange(2)] if x.ndim == 1 else x
    ),
    "update": lambda x: lax.dynamic_update_slice(x, x[:1], (1,) + (0,) * (x.ndim - 1)),
    "slice known": lambda x: lax.dynamic_slice_in_dim(x, 1, max(1, len(x) - 2), 0),
    "lag scan": lambda x: lax.scan(lambda c, r: (r, r - 2 * c), x[0] * 0, x)[1],
    "lag two scan": lambda x: lax.scan(
        lambda c, r: ((r, c[0]), r + c[1]), (x[0] * 0, x[0]), x
    )[1],
    "lead scan": lambda x: lax.scan(
        lambda c, r: (r, r * c), jnp.ones_like(x[0]), x, reverse=True
    )[1],
    "counter": lambda x: lax.scan(lambda i, r: (i + 1, r + x[i]), 0, jnp.roll(x, 1, 0))[
        1
    ],
    "counter behind": lambda x: (
        lax.scan(lambda i, _: (i + 1, x[i] * x[i - 1]), 1, None, length=len(x) - 1)[1]
        if len(x) > 1
        else x
    ),
    "counter with a wrap": lambda x: lax.scan(lambda i, r: (i + 1, r + x[i - 1]), 0, x)[
        1
    ],
    "counter in reverse": lambda x: lax.scan(
        lambda i, r: (i + 1, r * x[i]), 0, x, reverse=True
    )[1],
    "counter by twos": lambda x: lax.scan(
        lambda i, _: (i + 2, x[i]), 0, None, length=(len(x) + 1) // 2
    )[1],
    "counter downwards": lambda x: lax.scan(
        lambda i, r: (i - 1, r * x[i]), len(x) - 1, x
    )[1],
    "counter in reverse behind": lambda x: lax.scan(
        lambda c, r: ((c[0] + 1, r), r + c[1] * x[c[0]]), (0, x[0]), x, reverse=True
    )[1],
    "counter in reverse, downwards": lambda x: lax.scan(
        lambda i, r: (i - 1, r * x[i]), len(x) - 1, x, reverse=True
    )[1],
    "counter or zero": lambda x: lax.scan(
        lambda i, r: (i + 1, r + jnp.where(i > 0, x[i - 1], 0.0)), 0, x
    )[1],
    "counter clipped": lambda x: lax.scan(
        lambda i, r: (i + 1, r + x[jnp.maximum(i - 1, 0)]), 0, x
    )[1],
    "counter modulo": lambda x: lax.scan(
        lambda i, r: (i + 1, r + x[(i + 1) % len(x)]), 0, x
    )[1],
    "counter of windows": lambda x: (
        lax.scan(
            lambda i, _: (i + 1, lax.dynamic_slice_in_dim(x, i, 2)[-1]),
            0,
            None,
            length=len(x),
        )[1]
        if len(x) > 1
        else x
    ),
    "scanned index": lambda x: lax.scan(
        lambda c, t: (c, x[t] + c), 0.0, jnp.arange(len(x))
    )[1],
    "scan in scan": lambda x: (
        lax.scan(
            lambda c, r: (r, lax.scan(lambda d, y: (y, y + d), 0.0, r + c)[1]), x[0], x
        )[1]
        if x.ndim > 1
        else x
    ),
    "pad": lambda x: jnp.pad(x, [(1, 0)] + [(0, 0)] * (x.ndim - 1)),
    "join": lambda x: jnp.concatenate([x, x * 2], 0)[:7],
    "sum first": lambda x: x.sum(0) if x.ndim > 1 else x,
    "sum last": lambda x: x.sum(-1) if x.ndim > 1 else x,
    "sum and add": lambda x: x + x.sum(0, keepdims=True),
    "new axis": lambda x: x[:, None] * jnp.arange(1.0, 3.0) if x.ndim == 1 else x,
    "reshape": lambda x: x.reshape(x.shape[::-1]),
    "ravel": lambda x: x.reshape(-1),
    "halve": lambda x: x.reshape(2, -1) if x.size % 2 == 0 else x,
    "product": lambda x: x @ jnp.cos(jnp.arange(x.shape[-1] * 3.0)).reshape(-1, 3),
    "gram": lambda x: x @ x.T if x.ndim > 1 else x,
    "cumsum first": lambda x: jnp.cumsum(x, 0),
    "cumsum last": lambda x: jnp.cumsum(x, -1),
    "sort first": lambda x: jnp.sort(x, 0),
    "sort last": lambda x: jnp.sort(x, -1),
    "take": lambda x: x[jnp.arange(x.shape[0])[::-1] // 2],
    "take last": lambda x: x[..., jnp.arange(x.shape[-1]) // 2],
    "index by": lambda x: jnp.sin(jnp.arange(9.0))[(x * 2).astype(int) % 9],
    "along": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 0), 0),
    "scatter": lambda x: x.at[0].add(x[-1]),
    "scan": lambda x: lax.scan(lambda c, r: (r, r + c), x[0], x)[1],
    "reverse scan": lambda x: lax.scan(lambda c, r: (c + r, c), x[0], x, reverse=True)[
        1
    ],
    "scan plain": lambda x: lax.scan(lambda c, r: (c, jnp.flip(r)), 0.0, x)[1],
    "vmap": lambda x: jax.vmap(lambda r: r - r.max(), -1, -1)(x) if x.ndim > 1 else x,
    "vmap swap": lambda x: jax.vmap(jnp.cumsum, 0, 1)(x) if x.ndim > 1 else x,
    "cond": lambda x: lax.cond(x.ravel()[0] > 0, jnp.sin, jnp.cos, x),
    "fori": lambda x: lax.fori_loop(0, 2, lambda i, c: jnp.roll(c, i, 0), x),
    "map": lambda x: lax.map(jnp.tanh, x),
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "dynamic": lambda x: lax.dynamic_slice_in_dim(
        x, (x.ravel()[-1] > 0).astype(int), max(1, x.shape[0] - 1), 0
    ),
    "top_k": lambda x: lax.top_k(x, min(2, x.shape[-1]))[0],
}


def check_random_program(seed):
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.choice(list(STEPS), size=rng.integers(2, 5))]
    joins = rng.random(len(names)) < 0.25
    latent = FLOATS[seed % len(FLOATS)]

    def program(z):
        x = z
        for name, adds in zip(names, joins, strict=True):
            y = STEPS[name](x)
            x = x + y if adds and jnp.shape(x) == jnp.shape(y) else y
        return x

    try:
        assert_sound(program, latent, seed, num_bases=2, num_changes=2)
    except AssertionError as error:
        raise AssertionError(f"{names} {joins.tolist()}: {error}") from None


@pytest.mark.parametrize("seed", range(60))
def test_random_programs(seed):
    check_random_program(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 600))
def test_more_random_programs(seed):
    check_random_program(seed)
