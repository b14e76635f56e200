"""Draws of the optimum: circuits that were simulated, chosen by their weights."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.solver.aim import weighted_prior
from numpyro_dsn.solver.inputs import Inputs
from numpyro_dsn.weighted.dual import tilt
from numpyro_dsn.weighted.resampling import resample


@partial(jax.jit, static_argnames="num_samples")
def draw_corrected(rng_key: Array, inputs: Inputs, num_samples: int) -> tuple[Array, Array]:
    r"""Draw from the certified exponential family, among all circuits that were simulated.

    .. math:: w_i \propto \frac{p(z_i) \exp(\eta^\top \bar T(z_i))}{\sum_k n_k q_k(z_i)}

    Draws of the prior, and of flows that were broader than the last, bound the weights.

    Parameters
    ----------
    rng_key
        Key of the choice.
    inputs
        The draws and the natural parameters.
    num_samples
        Number of draws to choose.

    Returns
    -------
    Draws in unconstrained space, shape ``(num_samples, D)``, and the effective sample size of
    those that they were chosen from, shape ``()``.

    References
    ----------
    Hesterberg (1995), *Weighted average importance sampling and defensive mixture distributions*.
    """
    tilted = tilt(inputs.natural_parameters, weighted_prior(inputs.pool))
    choice_key, order_key = jax.random.split(rng_key)
    chosen = resample(choice_key, jnp.cumsum(jnp.exp(tilted.log_weights)), num_samples)
    flat = inputs.pool.draws.flat.reshape(-1, inputs.pool.draws.flat.shape[-1])
    return jax.random.permutation(order_key, flat[chosen]), tilted.ess
