"""Draws of the prior."""

import jax
from jax import Array
from numpyro import handlers

from numpyro_dsn.program.program import Program


def draw_prior(
    rng_key: Array, program: Program, num_draws: int, args: tuple, kwargs: dict
) -> dict[str, Array]:
    """Draw latents from the prior; a jitted caller pays for no simulation.

    Parameters
    ----------
    rng_key
        Key of the draws.
    program
        The program; its prior must be proper.
    num_draws
        Number of draws.
    args, kwargs
        Arguments of the model.

    Returns
    -------
    Value of each latent site with a leading axis ``num_draws``.
    """

    def draw(key: Array) -> dict[str, Array]:
        trace = handlers.trace(handlers.seed(program.guide_model, key)).get_trace(*args, **kwargs)
        return {name: trace[name]["value"] for name in program.latents}

    return jax.vmap(draw)(jax.random.split(rng_key, num_draws))
