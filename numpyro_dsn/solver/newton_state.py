"""The state of a fit by the dual Newton method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.solver.problem import Params
from numpyro_dsn.solver.state import Best, no_best, strong
from numpyro_dsn.solver.training import Training
from numpyro_dsn.weighted.acceptance import Acceptance, keep_all
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import Pool, start_pool
from numpyro_dsn.weighted.search import PriorDraws
from numpyro_dsn.weighted.targets import Targets


class NewtonState(NamedTuple):
    """All that changes during one fit.

    training
        Optimizer, parameters of the flow, and factor of the steps.
    natural_parameters, offset
        eta, and what is added to it to undo the flow's own error, in the units of the targets,
        each of shape ``(num_constraints,)``.
    acceptance
        Which draws of the flow are kept.
    pool
        All draws that are kept.
    flows
        Parameters of the pool's flows; arrays have a leading axis ``num_proposals``.
    last
        Number of the flow in the pool, shape ``()``.
    targets
        Targets with their units.
    solved, gap
        Whether the last epoch's eta minimized the dual, and the distance to its target, each of
        shape ``()``.
    best, epoch, rng_key
        Best converged epoch, number of finished epochs, and key of the fit.
    """

    training: Training
    natural_parameters: Array
    offset: Array
    acceptance: Acceptance
    pool: Pool
    flows: Params
    last: Array
    targets: Targets
    solved: Array
    gap: Array
    best: Best
    epoch: Array
    rng_key: Array

    @property
    def params(self) -> Params:
        """Unconstrained parameters of the flow after the last epoch."""
        return self.training.params


def build_state(
    rng_key: Array,
    params: Params,
    optim: Any,
    found: PriorDraws,
    first: tuple[Targets, Array],
    num_proposals: int,
) -> NewtonState:
    """Return the state before the first epoch.

    Parameters
    ----------
    rng_key
        Key of the fit.
    params
        Parameters of the flow at the start.
    optim
        A NumPyro optimizer.
    found
        Draws of the prior, or of the start.
    first
        Targets with their units, and the log density of proposal 0 at these draws.
    num_proposals
        Number of proposals that the pool has room for.
    """
    targets, log_first = first
    zeros, one = jnp.zeros_like(targets.unit), jnp.ones((), log_first.dtype)
    every = keep_all(zeros.size)
    draws = found.draws, found.log_share, log_first, found.num_simulated
    state = NewtonState(
        training=Training(optim.init(params), params, one),
        natural_parameters=zeros,
        offset=zeros,
        acceptance=every,
        pool=start_pool(*draws, num_proposals),
        flows=jax.tree.map(lambda leaf: jnp.stack([leaf] * num_proposals), params),
        last=jnp.zeros((), int),
        targets=targets,
        solved=jnp.zeros((), bool),
        gap=jnp.inf * one,
        best=no_best(params, every),
        epoch=jnp.zeros((), int),
        rng_key=rng_key,
    )
    return strong(state)


first_state = quick_jit(build_state, static_argnames=("optim", "num_proposals"))
