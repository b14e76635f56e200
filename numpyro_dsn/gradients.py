"""Whether a fit should follow gradients of the circuit."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.program import Program, draw_prior, simulate

MAX_BY_WEIGHTS = 8
"""More latents than these are fitted by gradients, if there are any. The error of a fit to weighted
draws grows with their number, and the way to the target, as weights allow it, takes more epochs."""

NUM_TRIED, MIN_SHARE, MIN_SLOPE = 100, 0.25, 1e-3
"""Draws of the prior, share of them at which every statistic must have a gradient, and the least
that it must change with the latents' standard deviations, in its own."""


def should_follow_gradients(program: Program, args: tuple, kwargs: dict) -> bool:
    """Return whether there are many latents, and statistics that change with them smoothly.

    Parameters
    ----------
    program
        The program.
    args, kwargs
        Arguments of the model.
    """
    if sum(np.size(site["value"]) for site in program.latents.values()) <= MAX_BY_WEIGHTS:
        return False
    key = jax.random.key(0)

    def statistics(latents: dict[str, Array]) -> Array:
        run = simulate(key, program.model, latents, program.constraints, args, kwargs)
        return run.statistics

    def slopes(latents: dict[str, Array], spread: dict[str, Array]) -> Array:
        rows = jax.jacobian(statistics)(latents)
        squares = jax.tree.map(lambda row, scale: (row * scale[None]) ** 2, rows, spread)
        return jnp.sqrt(sum(leaf.reshape(len(leaf), -1).sum(1) for leaf in squares.values()))

    @jax.jit
    def shares() -> Array:
        if program.is_proper:
            latents = draw_prior(key, program, NUM_TRIED, args, kwargs)
            spread = jax.tree.map(lambda leaf: leaf.std(0), latents)
        else:
            latents = {name: site["value"][None] for name, site in program.latents.items()}
            spread = jax.tree.map(lambda leaf: jnp.ones_like(leaf[0]), latents)
        slope = jax.vmap(slopes, (0, None))(latents, spread)
        values = jax.vmap(statistics)(latents)
        scale = values.std(0, where=jnp.isfinite(values))
        return jnp.mean(slope > MIN_SLOPE * scale[None], axis=0, dtype=slope.dtype)

    try:
        return bool(jnp.all(shares() >= MIN_SHARE))
    except (NotImplementedError, ValueError):  # NumPyro's, and of callbacks that have no gradient
        return False
