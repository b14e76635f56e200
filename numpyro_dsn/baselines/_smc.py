"""Tempered sequential Monte Carlo from the prior to the tilted model."""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.baselines._problem import Problem, as_tilted_problem
from numpyro_dsn.baselines.densities import (
    Latents,
    prior_density,
    prior_sampler,
    tilted_density,
    to_latents,
)
from numpyro_dsn.baselines.output import by_chain, simulate_draws, to_data
from numpyro_dsn.baselines.random_walk import require_blackjax, step_cholesky
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.program import Program, constrain
from numpyro_dsn.result import DSNResult

Density = Callable[[Latents], Array]

EVALUATIONS_PER_STEP = 3
"""Of the tilt, beside those of the random walk: to choose the temperature, to start, to weight."""

MAX_TEMPERATURES = 1000


class Run(NamedTuple):
    """One run from the prior to the tilted model.

    particles
        Unconstrained latents, shape ``(num_particles, D)``.
    log_normalizer
        log Z, in nats.
    num_temperatures
        Number of steps from temperature to temperature.
    acceptance_rate
        Of the random walk at the last one.
    """

    particles: Array
    log_normalizer: float
    num_temperatures: int
    acceptance_rate: float


def smc(
    rng_key: Array,
    source: Problem | DSNResult,
    *,
    num_particles: int = 1000,
    num_chains: int = 4,
    num_mcmc_steps: int = 20,
    target_ess: float = 0.5,
    num_replicates: int = 16,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> Any:
    r"""Sample the tilted model by tempering it from the prior.

    .. math:: q_\beta(z) \propto p(z) \exp(\beta\, \eta^\top \bar T(z)), \qquad \beta: 0 \to 1

    Particles start at draws of the prior, so modes are found wherever the prior finds them. They
    move by a random walk: no gradient of the simulator is used. The temperatures adapt.

    Parameters
    ----------
    rng_key
        Key of everything.
    source
        A fit, or a problem with natural parameters.
    num_particles
        Number of particles of a run, which are its draws.
    num_chains
        Number of independent runs. Only these tell how far the particles can be trusted.
    num_mcmc_steps
        Number of steps of the random walk at each temperature.
    target_ess
        Effective share of the particles that a new temperature leaves.
    num_replicates
        Number of fixed keys over which a stochastic simulator is averaged.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    ``InferenceData`` or ``xarray.DataTree``. ``sample_stats`` has ``lp``, the log density of the
    tilted model without its normalizer; ``log_normalizer``, log Z of each run; ``log_q``, their
    difference, in nats; and ``num_temperatures`` and ``acceptance_rate`` of each run.

    Raises
    ------
    ImportError
        If blackjax is not installed.
    ValueError
        If the natural parameters are unknown, the prior cannot be sampled, or the particles do
        not get from one to the other.

    References
    ----------
    P. Del Moral, A. Doucet and A. Jasra, *Sequential Monte Carlo samplers*, JRSS B 68, 2006.
    """
    require_blackjax()
    problem = as_tilted_problem(source)
    began = time.perf_counter()
    densities = prior_density(problem), tilted_density(problem, num_replicates)
    step = _tempering(problem.program, *densities, num_mcmc_steps, target_ess)
    draw_prior = prior_sampler(problem, num_particles)
    runs = []
    for run_key in jax.random.split(rng_key, num_chains):
        start_key, step_key = jax.random.split(run_key)
        runs.append(_temper(step_key, step, draw_prior(start_key)))
    flat = jnp.concatenate([run.particles for run in runs])
    log_normalizers = np.array([run.log_normalizer for run in runs])
    temperatures = np.array([run.num_temperatures for run in runs])
    latents = to_latents(problem.program, flat)
    lp = by_chain(jax.jit(jax.vmap(densities[1]))(latents), num_chains)
    keys = jax.random.split(jax.random.fold_in(rng_key, num_chains), len(flat))
    simulations = simulate_draws(keys, problem, latents)
    seconds = time.perf_counter() - began

    replicates = num_replicates if problem.program.is_stochastic else 1
    per_temperature = num_particles * (num_mcmc_steps + EVALUATIONS_PER_STEP) * replicates
    stats = {
        "lp": lp,
        "log_q": lp - log_normalizers[:, None],
        "log_normalizer": log_normalizers,
        "num_temperatures": temperatures,
        "acceptance_rate": np.array([run.acceptance_rate for run in runs]),
    }
    attrs = {
        "inference_method": "SMC",
        "num_simulations": per_temperature * int(temperatures.sum()) + len(flat),
        "sampling_time": seconds,
        "natural_parameters": json.dumps(np.asarray(problem.natural_parameters).tolist()),
    }
    return to_data(problem, by_chain(simulations, num_chains), stats, attrs, coords, dims)


def _tempering(
    program: Program, prior: Density, tilted: Density, num_mcmc_steps: int, target_ess: float
) -> Callable[[Array, Any], Any]:
    """Return a compiled function of a key and particles that takes them to the next temperature.

    Parameters
    ----------
    program
        The program.
    prior, tilted
        Log densities of latents.
    num_mcmc_steps
        Number of steps of the random walk.
    target_ess
        Effective share of the particles that a new temperature leaves.
    """
    from blackjax.mcmc import random_walk
    from blackjax.smc import adaptive_tempered, resampling

    def log_prior(flat: Array) -> Array:
        latents, log_det = constrain(program, flat)
        return prior(latents) + log_det

    def log_tilt(flat: Array) -> Array:
        latents, _ = constrain(program, flat)
        value = tilted(latents) - prior(latents)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    walk = random_walk.build_additive_step()

    def move(rng_key: Array, state: Any, log_density: Any, cholesky: Array) -> Any:
        def propose(rng_key: Array, position: Array) -> Array:
            return cholesky @ jax.random.normal(rng_key, position.shape, position.dtype)

        return walk(rng_key, state, log_density, propose)

    kernel = adaptive_tempered.build_kernel(
        log_prior, log_tilt, move, random_walk.init, resampling.systematic, target_ess
    )

    @jax.jit
    def step(rng_key: Array, state: Any) -> Any:
        cholesky = step_cholesky(state.particles, state.weights)
        # A leading axis of one: blackjax shares it among the particles.
        return kernel(rng_key, state, num_mcmc_steps, {"cholesky": cholesky[None]})

    return step


def _temper(rng_key: Array, step: Callable[[Array, Any], Any], start: Array) -> Run:
    """Take particles from the prior to the tilted model."""
    from blackjax.smc import adaptive_tempered

    state = adaptive_tempered.init(start)
    state = state._replace(tempering_param=jnp.zeros(()))
    log_normalizer, num_steps, reached = 0.0, 0, False
    # The kernel moves first and raises the temperature then: one more step moves at the end.
    while not reached:
        reached = float(state.tempering_param) >= 1.0
        rng_key, step_key = jax.random.split(rng_key)
        state, info = step(step_key, state)
        log_normalizer += float(info.log_likelihood_increment)
        num_steps += 1
        _require_progress(float(state.tempering_param), num_steps)
    acceptance = float(jnp.mean(info.update_info.is_accepted))
    return Run(state.particles, log_normalizer, num_steps, acceptance)


def _require_progress(temperature: float, num_steps: int) -> None:
    if num_steps > MAX_TEMPERATURES or not np.isfinite(temperature):
        raise ValueError(
            f"After {num_steps} steps the particles are at temperature {temperature:.3g} of 1: the "
            "statistics of hardly any draw of the prior are finite, or none is near the behavior. "
            "Guard the statistics, or raise `num_particles`."
        )
