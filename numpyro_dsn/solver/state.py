"""What the states of all methods share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.weighted.acceptance import Acceptance

Params = dict[str, Array]


class Held(NamedTuple):
    """A fit: unconstrained parameters of the flow, and which of its draws are kept."""

    params: Params
    acceptance: Acceptance


class Best(NamedTuple):
    """The best converged epoch so far.

    params
        Unconstrained parameters of the flow.
    acceptance
        Which of its draws are kept.
    epoch
        Its number, shape ``()``; -1 while no epoch has converged.
    score
        What made it the best, shape ``()``: its entropy, or minus its gap, in nats.
    """

    params: Params
    acceptance: Acceptance
    epoch: Array
    score: Array


def no_best(params: Params, acceptance: Acceptance) -> Best:
    """Return what is best while no epoch has converged."""
    dtype = jnp.zeros(()).dtype
    return Best(params, acceptance, jnp.full((), -1, int), jnp.full((), -jnp.inf, dtype))


def keep_best(best: Best, candidate: Best, converged: Array) -> Best:
    """Return the better one of the best epoch and a candidate, which must have converged."""
    better = converged & (candidate.score > best.score)
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)


def held_fit(state: Any) -> Held:
    """Return the best converged fit of a method's state, or the last if none has converged."""
    best = state.best if int(state.best.epoch) >= 0 else state
    return Held(best.params, best.acceptance)


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
