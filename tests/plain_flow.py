"""A flow of functions, in unconstrained space and not truncated."""

import jax.numpy as jnp

from numpyro_dsn.flow import Flow
from numpyro_dsn.guides.rejection import Estimate


def plain_flow(sample, log_prob, simulate, dim=1):
    """Return a flow with this sampling, density and simulation."""
    return Flow(
        sample=sample,
        log_prob=log_prob,
        estimate=lambda key, params, flat: Estimate(log_prob(params, flat), jnp.zeros(())),
        propose=sample,
        coordinates=lambda flat: flat,
        limits=(jnp.inf,) * dim,
        simulate=simulate,
    )
