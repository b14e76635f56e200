"""Draws of the exponential family: draws of a fit and of the prior, chosen by their weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.dual import exponent
from numpyro_dsn.flow import Flow

NUM_CANDIDATES = 10
"""Draws for each one that is chosen."""

PRIOR_SHARE = 0.2
"""Share of them that is drawn from the prior."""


@partial(jax.jit, static_argnums=(1, 2, 5))
def draw_reweighted(
    rng_key: Array,
    flow: Flow,
    prior: Callable[[Array, int], Array] | None,
    params: Any,
    natural_parameters: Array,
    num_samples: int,
) -> tuple[Array, Array]:
    r"""Draw from the exponential family by choosing draws of a fit and of the prior.

    .. math:: w_i \propto \frac{p(z_i) \exp(\eta^\top \bar T(z_i))}
              {(1 - \alpha) q(z_i) + \alpha p(z_i)}

    Draws of the prior, a share :math:`\alpha` of all, bound the weights: what the fit hardly
    covers would otherwise be a few draws that weigh nearly everything.

    Parameters
    ----------
    rng_key
        Key of the draws, the noise and the choice.
    flow, prior
        Functions of the guide, the circuit and the prior; ``None`` if it cannot be sampled.
    params
        Unconstrained parameters of the fit.
    natural_parameters
        eta in nats per unit of T, shape ``(num_constraints,)``.
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
    flow_key, prior_key, noise_key, choice_key, order_key = jax.random.split(rng_key, 5)
    num_draws = NUM_CANDIDATES * num_samples
    num_prior = 0 if prior is None else int(PRIOR_SHARE * num_draws)
    flat = flow.sample(flow_key, params, num_draws - num_prior)
    if prior is not None:
        flat = jnp.concatenate([flat, prior(prior_key, num_prior)])
    # The mean over replicates: one noisy run would be tilted together with its noise.
    draws = flow.simulate(noise_key, flat)
    share = num_prior / num_draws
    log_q = flow.log_prob(params, flat) + jnp.log1p(-share)
    log_proposal = jnp.logaddexp(log_q, draws.log_prior + jnp.log(share))
    tilt = exponent(natural_parameters, draws.statistics, draws.noise)
    # A draw at an end of the support is infinitely far in unconstrained space.
    usable = draws.finite & jnp.isfinite(draws.log_prior)
    log_weights = jnp.where(usable, draws.log_prior + tilt - log_proposal, -jnp.inf)
    weights = jax.nn.softmax(log_weights)
    # Evenly spaced, so that the choice adds as little noise as it can; then in random order.
    positions = (jnp.arange(num_samples) + jax.random.uniform(choice_key)) / num_samples
    cumulative = jnp.cumsum(weights)
    chosen = jnp.searchsorted(cumulative, positions * cumulative[-1], side="right")
    chosen = jnp.minimum(chosen, num_draws - 1)
    return jax.random.permutation(order_key, flat[chosen]), 1 / jnp.sum(weights**2)
