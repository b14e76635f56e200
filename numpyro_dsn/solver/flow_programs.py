"""Draws and densities of a flow, compiled once for a flow's configuration and a number of draws."""

from functools import partial
from typing import Any

from jax import Array

from numpyro_dsn.solver.problem import Params
from numpyro_dsn.weighted.compilation import flow_jit


@partial(flow_jit, static_argnames=("flow", "num_draws"))
def sample(flow: Any, rng_key: Array, params: Params, num_draws: int) -> Array:
    """Return draws in unconstrained space, shape ``(num_draws, D)``."""
    return flow.sample(rng_key, params, num_draws)


@partial(flow_jit, static_argnames="flow")
def log_prob(flow: Any, params: Params, flat: Array) -> Array:
    """Return log densities, shape ``(num_draws,)``, of draws, shape ``(num_draws, D)``."""
    return flow.log_prob(params, flat)
