"""What the states of all methods share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Params = dict[str, Array]


class Best(NamedTuple):
    """The best converged epoch so far.

    params
        Unconstrained parameters of the flow.
    epoch
        Its number, shape ``()``; -1 while no epoch has converged.
    score
        What made it the best, shape ``()``: its entropy, or minus its gap, in nats.
    """

    params: Params
    epoch: Array
    score: Array


def no_best(params: Params) -> Best:
    """Return what is best while no epoch has converged."""
    dtype = jnp.zeros(()).dtype
    return Best(params, jnp.full((), -1, int), jnp.full((), -jnp.inf, dtype))


def keep_best(best: Best, candidate: Best, converged: Array) -> Best:
    """Return the better one of the best epoch and a candidate, which must have converged."""
    better = converged & (candidate.score > best.score)
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)


def strong(tree: Any) -> Any:
    """Return arrays without weak types: a mixture would make a later epoch compile again."""
    return jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), tree)


def same(one: Any, other: Any) -> bool:
    """Return whether two trees have the same structure and equal leaves."""
    structures: list[Any] = [jax.tree.structure(one), jax.tree.structure(other)]
    if structures[0] != structures[1]:
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a is b or np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
