"""The density that a fit holds, as a function of flat vectors; nothing is simulated."""

from typing import TYPE_CHECKING

import jax
from jax import Array

from numpyro_dsn.program import constrain, unconstrain
from numpyro_dsn.sensitivity.coordinates import unflatten

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult


def log_prob(result: "DSNResult", z: Array) -> Array:
    """Return log q at a vector of parameters, shape ``(D,)``, on the constrained space."""
    program = result.fit.program
    flat, log_det = unconstrain(program, unflatten(program, z))
    return result.fit.flow.log_prob(result.flow_params, flat[None])[0] - log_det


def log_prob_unconstrained(result: "DSNResult", flat: Array) -> Array:
    """Return log q(z(u)), the density on the constrained space, at u of shape ``(D,)``."""
    value = result.fit.flow.log_prob(result.flow_params, flat[None])[0]
    return value - constrain(result.fit.program, flat)[1]


def draw_unconstrained(result: "DSNResult", rng_key: Array, num_draws: int) -> Array:
    """Draw u from the fit, shape ``(num_draws, D)``."""
    flow = result.fit.flow
    return jax.jit(lambda key, params: flow.sample(key, params, num_draws))(
        rng_key, result.flow_params
    )
