"""Approximate Bayesian computation by sequential Monte Carlo, on the parts of blackjax."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.baselines._problem import Problem, as_problem
from numpyro_dsn.baselines.densities import prior_sampler, to_latents
from numpyro_dsn.baselines.distance import Distance, behavior_distance
from numpyro_dsn.baselines.output import by_chain, simulate_draws, to_data
from numpyro_dsn.baselines.random_walk import require_blackjax, step_cholesky
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.program import constrain, simulate
from numpyro_dsn.result import DSNResult
from numpyro_dsn.status import warn

MAX_LEVELS = 100

MIN_MOVES = 1.0
"""Fewer accepted moves of a particle at the last level leave copies among the draws."""


class Particle(NamedTuple):
    """A circuit and one simulation of it.

    flat
        Unconstrained latents, shape ``(dim,)``.
    rng_key
        Key of the simulation, to repeat it.
    distance
        Its distance to the behavior, in tolerances.
    log_prior
        Log density of the prior in unconstrained space, in nats.
    """

    flat: Array
    rng_key: Array
    distance: Array
    log_prior: Array


class Schedule(NamedTuple):
    """How epsilon falls.

    epsilon
        Distance of the last level, in tolerances.
    survival
        Share of the particles that a level keeps.
    num_mcmc_steps
        Number of steps of the random walk at each level.
    """

    epsilon: float
    survival: float
    num_mcmc_steps: int


def smc_abc(
    rng_key: Array,
    source: Problem | DSNResult,
    *,
    num_particles: int = 1000,
    num_chains: int = 4,
    num_mcmc_steps: int = 20,
    epsilon: float = 1.0,
    survival: float = 0.5,
    tolerance: Mapping[str, ArrayLike] | None = None,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> Any:
    r"""Condition the prior on simulations near the behavior, with a falling epsilon.

    .. math:: p(z \mid d(x) \le \epsilon) \propto p(z)\, P(d(x) \le \epsilon \mid z), \qquad
              d(x) = \max_j \frac{|f_j(x) - \mu_j|}{\sigma_j}

    This is another distribution than the tilted model: every simulation has to be near the
    target, and the target's standard deviation is only a tolerance. Each level keeps the nearest
    particles, resamples them and moves them by a Metropolis random walk on (z, x).

    Parameters
    ----------
    rng_key
        Key of everything.
    source
        A fit or a problem; natural parameters are not used.
    num_particles
        Number of particles of a run, which are its draws.
    num_chains
        Number of independent runs.
    num_mcmc_steps
        Number of steps of the random walk at each level.
    epsilon
        Distance of the last level, in tolerances.
    survival
        Share of the particles that a level keeps.
    tolerance
        Tolerance by behavior, in the units of the statistic; the target's standard deviation by
        default. Needed for targets without one. Inequalities have no distance inside.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    ``InferenceData`` or ``xarray.DataTree``, with the accepted simulations. ``sample_stats`` has
    ``distance``; ``log_q`` in nats for a deterministic circuit; and ``log_normalizer``, the log
    of the accepted share of the prior, ``num_levels`` and ``acceptance_rate`` of each run.

    Raises
    ------
    ImportError
        If blackjax is not installed.
    ValueError
        If a tolerance is missing, or the prior cannot be sampled.

    References
    ----------
    P. Del Moral, A. Doucet and A. Jasra, *An adaptive sequential Monte Carlo method for
    approximate Bayesian computation*, Statistics and Computing 22, 2012.
    """
    require_blackjax()
    problem = as_problem(source)
    program = problem.program
    # As precise as the distances.
    schedule = Schedule(float(jnp.asarray(epsilon, float)), survival, num_mcmc_steps)
    run = _simulator(problem, behavior_distance(program, tolerance))
    began = time.perf_counter()
    draw_prior = prior_sampler(problem, num_particles)
    start, step = jax.jit(jax.vmap(run)), _level_step(run, num_particles, num_mcmc_steps)
    runs = []
    for run_key in jax.random.split(rng_key, num_chains):
        draw_key, noise_key, run_key = jax.random.split(run_key, 3)
        keys = jax.random.split(noise_key, num_particles)
        runs.append(_approach(run_key, start(keys, draw_prior(draw_key)), step, schedule))
    particles, *by_run = zip(*runs, strict=True)
    particles = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *particles)
    log_shares, levels, acceptances, reached = map(np.asarray, by_run)
    latents = to_latents(program, particles.flat)
    simulations = by_chain(simulate_draws(particles.rng_key, problem, latents), num_chains)
    seconds = time.perf_counter() - began

    stats = {
        "distance": by_chain(particles.distance, num_chains),
        "log_normalizer": log_shares,
        "num_levels": levels,
        "acceptance_rate": acceptances,
    }
    if not program.is_stochastic:
        stats["log_q"] = simulations.log_prior - log_shares[:, None]
    attrs = {
        "inference_method": "SMC-ABC",
        "num_simulations": num_particles * int(np.sum(1 + num_mcmc_steps * levels)),
        "sampling_time": seconds,
        "epsilon": float(reached.max()),
    }
    return to_data(problem, simulations, stats, attrs, coords, dims)


def _simulator(problem: Problem, distance: Distance) -> Callable[[Array, Array], Particle]:
    """Return a function of a key and unconstrained latents that simulates a circuit."""
    program, args, kwargs, _ = problem

    def run(rng_key: Array, flat: Array) -> Particle:
        latents, log_det = constrain(program, flat)
        found = simulate(rng_key, program.model, latents, program.constraints, args, kwargs)
        return Particle(flat, rng_key, distance(found.sites), found.log_prior + log_det)

    return run


def _level_step(
    run: Callable[[Array, Array], Particle], num_particles: int, num_mcmc_steps: int
) -> Callable[[Array, Particle, Array], tuple[Particle, Array]]:
    """Return a compiled function of a key, particles and a level that takes them below it.

    It returns the particles and the acceptance rate of the random walk.
    """
    from blackjax.smc import base, resampling

    def move(rng_key: Array, particle: Particle, level: Array, cholesky: Array) -> Any:
        def walk(old: Particle, rng_key: Array) -> tuple[Particle, Array]:
            step_key, noise_key, accept_key = jax.random.split(rng_key, 3)
            step = cholesky @ jax.random.normal(step_key, old.flat.shape, old.flat.dtype)
            new = run(noise_key, old.flat + step)
            threshold = jnp.log(jax.random.uniform(accept_key))
            accept = (new.distance <= level) & (threshold < new.log_prior - old.log_prior)
            return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old), accept

        return jax.lax.scan(walk, particle, jax.random.split(rng_key, num_mcmc_steps))

    @jax.jit
    def step(rng_key: Array, particles: Particle, level: Array) -> tuple[Particle, Array]:
        alive = particles.distance <= level
        weights = alive / jnp.sum(alive)
        cholesky = step_cholesky(particles.flat, weights)

        def update(keys: Array, particles: Particle, level: Array) -> tuple[Particle, Array]:
            return jax.vmap(move, (0, 0, None, None))(keys, particles, level, cholesky)

        state, info = base.step(
            rng_key,
            base.SMCState(particles, weights, level),
            update,
            lambda particles: jnp.zeros(num_particles),
            resampling.systematic,
        )
        return state.particles, jnp.mean(info.update_info)

    return step


def _approach(
    rng_key: Array,
    particles: Particle,
    step: Callable[[Array, Particle, Array], tuple[Particle, Array]],
    schedule: Schedule,
) -> tuple[Particle, float, int, float, float]:
    """Take particles from the prior to the last level.

    Returns
    -------
    The particles, the log of the accepted share of the prior, the number of levels, the acceptance
    rate at the last one, and this level.
    """
    epsilon, survival, num_mcmc_steps = schedule
    log_share, level, acceptance, num_levels = 0.0, np.inf, 1.0, 0
    while level > epsilon and acceptance > 0 and num_levels < MAX_LEVELS:
        found = np.asarray(particles.distance)
        level = _next_level(found, level, survival, epsilon)
        log_share += float(np.log(np.mean(found <= level)))
        rng_key, step_key = jax.random.split(rng_key)
        particles, moved = step(step_key, particles, jnp.asarray(level, found.dtype))
        acceptance, num_levels = float(moved), num_levels + 1
    _warn_unless_reached(level, epsilon, acceptance * num_mcmc_steps)
    return particles, log_share, num_levels, acceptance, level


def _next_level(found: np.ndarray, level: float, survival: float, epsilon: float) -> float:
    """Return the quantile of the distances, or the next smaller one if they are tied.

    If there is none, the level stays and the particles go on searching.
    """
    # The lower neighbor: between a finite and an infinite distance there is no number.
    chosen = np.quantile(found, survival, method="lower")
    if chosen >= level:
        chosen = max(found[found < level], default=level)
    return float(found.dtype.type(max(chosen, epsilon)))


def _warn_unless_reached(level: float, epsilon: float, num_moves: float) -> None:
    if level > epsilon:
        warn(
            f"SMC-ABC stopped at epsilon {level:.3g} instead of {epsilon:.3g}; raise "
            "`num_particles`, `num_mcmc_steps` or `epsilon`."
        )
    elif num_moves < MIN_MOVES:
        warn(
            f"A particle of SMC-ABC moved {num_moves:.2f} times at the last level, so draws are "
            "copies of each other; raise `num_mcmc_steps`."
        )
