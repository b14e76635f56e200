"""Draws of the prior and of flows, simulated, with the densities that weigh them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.solver.flow_programs import log_prob, sample
from numpyro_dsn.solver.measurement import Strays, count_strays
from numpyro_dsn.solver.newton_state import NewtonState
from numpyro_dsn.solver.problem import Params, Problem
from numpyro_dsn.solver.training import Training
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import Draws, Pool, insert, with_densities
from numpyro_dsn.weighted.search import PriorDraws, search_prior, unweighted
from numpyro_dsn.weighted.targets import Targets, in_units, measure_units

_in_units = quick_jit(in_units)


class Search(NamedTuple):
    """How the prior is searched.

    num_draws, max_batches
        Draws of a batch, and batches at the most.
    min_ess
        Effective draws of the tilted density to look for.
    max_units
        Units from the target at which statistics are bounded.
    """

    num_draws: int
    min_ess: float
    max_batches: int
    max_units: float


def first_draws(
    problem: Problem, rng_key: Array, params: Params, search: Search
) -> tuple[PriorDraws, tuple[Targets, Array], Strays]:
    """Simulate draws of the prior, or of the start if the prior is improper.

    Returns
    -------
    The draws; the targets with their units, and the log density of what was drawn from; and how
    many of the first batch are astray.
    """
    circuit, size = problem.circuit, search.num_draws

    def simulate(key: Array) -> Draws:
        draw_key, noise_key = jax.random.split(key)
        if circuit.prior is None:
            return circuit.simulate(noise_key, sample(problem.flow, draw_key, params, size))
        return circuit.simulate(noise_key, circuit.prior(draw_key, size))

    first_key, search_key = jax.random.split(jax.random.fold_in(rng_key, 0))
    raw = simulate(first_key)
    asked = problem.lower, problem.upper, problem.units
    targets = measure_units(*asked, raw, search.max_units)
    first = _in_units(raw, targets)
    if circuit.prior is None:
        log_first = log_prob(problem.flow, params, first.flat)
        return unweighted(first), (targets, log_first), count_strays(raw, targets)

    def more(key: Array) -> Draws:
        return _in_units(simulate(key), targets)

    sizes = search.min_ess, search.max_batches
    found = search_prior(search_key, more, first, targets, *sizes)
    return found, (targets, found.draws.log_prior), count_strays(raw, targets)


def add_draws(
    problem: Problem, state: NewtonState, training: Training
) -> tuple[NewtonState, Strays]:
    """Simulate draws of a flow and add them to the pool, in the place of the oldest.

    Returns
    -------
    The state with the flow and its draws, and how many of these are astray.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.rng_key, state.epoch), 2)
    draw_key, noise_key = jax.random.split(key)
    size = state.pool.log_share.shape[1]
    flat = sample(problem.flow, draw_key, training.params, size)
    raw = problem.circuit.simulate(noise_key, flat)
    num_flows = state.pool.counts.size - 1
    index = 1 + int(state.epoch) % num_flows
    if index == int(state.last):
        index = 1 + index % num_flows
    flows = _put(state.flows, training.params, index)
    pool = insert(state.pool, index, _in_units(raw, state.targets))
    blocks = np.flatnonzero(np.asarray(pool.counts))

    def density(which: int, block: int) -> Array:
        return log_prob(problem.flow, *_pair(flows, which, pool.draws.flat, block))

    of_new = _by_block(pool, blocks, lambda block: density(index, block))
    at_new = _by_block(pool, blocks, lambda block: density(block, index))
    if problem.circuit.prior is not None:
        at_new[0] = np.asarray(pool.draws.log_prior)[index]
    pool = with_densities(pool, index, of_new, at_new)
    new = state._replace(
        training=training, pool=pool, flows=flows, last=jnp.asarray(index, state.last.dtype)
    )
    return new, count_strays(raw, state.targets)


def _by_block(pool: Pool, blocks: np.ndarray, density: Callable[[int], Array]) -> np.ndarray:
    """Return a log density for each block that is used, minus infinity for the others."""
    values = np.full(pool.log_share.shape, -np.inf, pool.log_share.dtype)
    for block in blocks:
        values[block] = density(int(block))
    return values


@quick_jit
def _put(flows: Params, new: Params, index: int) -> Params:
    return jax.tree.map(lambda leaf, one: leaf.at[index].set(one), flows, new)


@quick_jit
def _pair(flows: Params, which: int, flat: Array, block: int) -> tuple[Params, Array]:
    """Return the parameters of one of several flows, and one block of draws."""
    return jax.tree.map(lambda leaf: leaf[which], flows), flat[block]
