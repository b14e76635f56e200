"""The tail of a fit's importance weights."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import psis_diagnostic

from numpyro_dsn.dual import exponent
from numpyro_dsn.flow import CPU_BATCH_SIZE, Flow

NUM_DRAWS = 5000


def pareto_k(rng_key: Array, flow: Flow, params: Any, natural_parameters: Array) -> float:
    r"""Return the shape of the tail of the weights that make a fit maximum entropy.

    .. math:: w(z) = \frac{p(z)}{q(z)} \exp(\eta^\top \bar T(z))

    Parameters
    ----------
    rng_key
        Key of the draws and the noise.
    flow
        Functions of the guide and the circuit.
    params
        Unconstrained parameters of the fit.
    natural_parameters
        eta in nats per unit of T, shape ``(num_constraints,)``.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), *Pareto smoothed importance sampling*.
    """

    @jax.jit
    def log_weight(key: Array) -> Array:
        draw_key, noise_key = jax.random.split(key)
        flat = flow.sample(draw_key, params, 1)
        draws = flow.simulate(noise_key, flat)
        tilt = exponent(natural_parameters, draws.statistics, draws.noise)
        log_ratio = draws.log_prior + tilt - flow.log_prob(params, flat)
        return jnp.where(draws.finite, log_ratio, -jnp.inf)[0]

    # The diagnostic runs a guide and a model operation by operation; these have hardly any.
    def guide() -> None:
        key = numpyro.prng_key()
        with handlers.block():
            value = log_weight(key)
        numpyro.sample("log_weight", dist.Delta(value))

    def model() -> None:
        value = numpyro.sample("log_weight", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.factor("weight", value)

    sizes = {"num_particles": NUM_DRAWS, "chunk_size": CPU_BATCH_SIZE}
    with warnings.catch_warnings():
        # Too few weights in the tail: the shape is then infinite, which says it.
        warnings.filterwarnings("ignore", "Not enough tail samples", UserWarning)
        return float(psis_diagnostic(rng_key, {}, model, guide, **sizes))
