"""Fitting many latents by gradients of the circuit, where it has any."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.program import Program, draw_prior, simulate
from numpyro_dsn.solver.objective import gate
from numpyro_dsn.solver.problem import Circuit, Params
from numpyro_dsn.solver.training import Training, descend, path_loss
from numpyro_dsn.weighted.targets import Targets

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
    except (NotImplementedError, TypeError, ValueError):  # callbacks, integers: no gradient
        return False


def gradient_descent(
    flow: Any, circuit: Circuit, optim: Any, num_particles: int, num_steps: int
) -> Callable[[Array, Training, Array, Targets], Training]:
    """Return a compiled function that fits a flow to the tilted prior by its own draws.

    Parameters
    ----------
    flow
        A flow whose draws have gradients.
    circuit
        The circuit.
    optim
        A NumPyro optimizer.
    num_particles, num_steps
        Number of draws in a step, and of steps.
    """

    @jax.jit
    def run(rng_key: Array, training: Training, eta: Array, targets: Targets) -> Training:
        def log_target(key: Array, flat: Array) -> Array:
            done = circuit.run(key, gate(flat))
            scaled = (done.statistics - targets.origin) / targets.unit
            finite = jnp.all(jnp.isfinite(scaled))
            value = done.log_prior + jnp.where(finite, scaled, 0.0) @ eta
            return jnp.where(finite, value, -jnp.inf)

        def loss(key: Array, params: Params) -> Array:
            return path_loss(key, params, flow, log_target, num_particles)

        return descend(rng_key, training, loss, optim, num_steps)[0]

    return run
