"""Fitting many latents by gradients of the circuit, where it has any."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.program import Program, draw_prior, simulate
from numpyro_dsn.solver.objective import gate
from numpyro_dsn.solver.problem import CPU_BATCH_SIZE, Circuit, Params
from numpyro_dsn.solver.training import Training, descend, path_loss
from numpyro_dsn.weighted.own_draws import OwnDraws, Pace, kept_fraction, step
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


STEPS_OF_ROUND, DRAWS_OF_ROUND = 25, 4096
"""Steps on the flow, and fresh draws for a step on the dual after them."""

NATS_PER_LATENT, RATE = 0.02, 0.5
"""Divergence, for each latent, that a step on the dual crosses at most, and the fraction of it that
is taken: the flow lags behind, and a full step would go too far."""


class Descent(NamedTuple):
    """What is descended, and how.

    flow
        A flow whose draws have gradients.
    circuit
        The circuit.
    optim
        A NumPyro optimizer.
    num_particles, num_steps
        Number of draws in a step, and of steps.
    envelope, num_replicates
        Draws of which one is kept, and runs that are averaged to tell which.
    """

    flow: Any
    circuit: Circuit
    optim: Any
    num_particles: int
    num_steps: int
    envelope: float
    num_replicates: int


def gradient_descent(descent: Descent) -> Callable[..., tuple[Training, Array]]:
    """Return a function that fits a flow by its own draws, and natural parameters to it.

    Rounds of steps on the flow take turns with steps on the dual, by the moments of fresh draws.

    Parameters
    ----------
    descent
        What is descended, and how.

    Returns
    -------
    Function of a key, where training stands, natural parameters and targets; it returns where
    training stands then, and the new natural parameters.
    """
    num_rounds = -(-descent.num_steps // STEPS_OF_ROUND)

    @jax.jit
    def fit(
        rng_key: Array, training: Training, eta: Array, targets: Targets
    ) -> tuple[Training, Array]:
        def take_turns(carry: tuple, key: Array) -> tuple[tuple, None]:
            training, eta = carry
            steps_key, draws_key = jax.random.split(key)
            training = _fit_flow(descent, steps_key, training, eta, targets)
            return (training, _move_dual(descent, draws_key, training.params, eta, targets)), None

        keys = jax.random.split(rng_key, num_rounds)
        return jax.lax.scan(take_turns, (training, eta), keys)[0]

    return fit


def count_simulations(num_particles: int, num_steps: int, is_stochastic: bool) -> int:
    """Return how many simulations an epoch takes: those of steps, and of fresh draws."""
    num_rounds, num_runs = -(-num_steps // STEPS_OF_ROUND), 2 if is_stochastic else 1
    by_steps = min(STEPS_OF_ROUND, num_steps) * num_particles
    return num_rounds * (by_steps + num_runs * DRAWS_OF_ROUND)


def _run(circuit: Circuit, key: Array, flat: Array, targets: Targets) -> tuple[Array, Array]:
    """Return T in units, and the log density of the prior; minus infinity if the circuit failed."""
    done = circuit.run(key, flat)
    scaled = (done.statistics - targets.origin) / targets.unit
    finite = jnp.all(jnp.isfinite(scaled)) & jnp.isfinite(done.log_prior)
    return jnp.where(finite, scaled, 0.0), jnp.where(finite, done.log_prior, -jnp.inf)


def _fit_flow(
    descent: Descent, rng_key: Array, training: Training, eta: Array, targets: Targets
) -> Training:
    """Take the steps of a round on the flow."""

    def log_target(key: Array, flat: Array) -> Array:
        statistics, log_prior = _run(descent.circuit, key, gate(flat), targets)
        return log_prior + statistics @ eta

    def loss(key: Array, params: Params) -> Array:
        return path_loss(key, params, descent.flow, log_target, descent.num_particles)

    num_steps = min(STEPS_OF_ROUND, descent.num_steps)
    return descend(rng_key, training, loss, descent.optim, num_steps)[0]


def _own_draws(descent: Descent, rng_key: Array, params: Params, targets: Targets) -> OwnDraws:
    """Draw from the flow, and simulate each draw, twice if two runs differ."""
    draw_key, *noise_keys = jax.random.split(rng_key, 3)
    flat = descent.flow.sample(draw_key, params, DRAWS_OF_ROUND)

    def run_all(key: Array) -> tuple[Array, Array]:
        def run(key_and_flat: tuple[Array, Array]) -> tuple[Array, Array]:
            return _run(descent.circuit, *key_and_flat, targets)

        keys = jax.random.split(key, DRAWS_OF_ROUND)
        return jax.lax.map(run, (keys, flat), batch_size=CPU_BATCH_SIZE)

    statistics, log_prior = run_all(noise_keys[0])
    again = run_all(noise_keys[1])[0] if descent.num_replicates > 1 else statistics
    log_ratio = log_prior - descent.flow.log_prob(params, flat)
    no_noise = jnp.zeros((len(flat), 0, statistics.shape[-1]))
    return OwnDraws(log_ratio, statistics, no_noise, again)


def _move_dual(
    descent: Descent, rng_key: Array, params: Params, eta: Array, targets: Targets
) -> Array:
    """Return natural parameters after a step by the moments of draws that are kept."""
    draws = _own_draws(descent, rng_key, params, targets)
    error = ((draws.statistics - draws.again) @ eta) ** 2 / (2 * descent.num_replicates)
    fraction = kept_fraction(error, descent.envelope)
    pace = Pace(fraction, NATS_PER_LATENT * descent.flow.dim, RATE)
    return step(eta, draws, targets.bounds, pace)
