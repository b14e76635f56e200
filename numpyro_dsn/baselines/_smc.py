"""Tempered sequential Monte Carlo from the prior to the tilted model."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.baselines._problem import Problem, as_tilted_problem
from numpyro_dsn.baselines.output import simulate_draws, to_data
from numpyro_dsn.baselines.random_walk import require_blackjax, step_cholesky
from numpyro_dsn.baselines.space import (
    prior_density,
    prior_sampler,
    tilted_density,
    unconstrained_space,
)
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.result import DSNResult

EVALUATIONS_PER_STEP = 3
"""Of the tilt, beside those of the random walk: to choose the temperature, to start, to weight."""

MAX_TEMPERATURES = 1000


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
    from blackjax.mcmc import random_walk
    from blackjax.smc import adaptive_tempered, resampling

    problem = as_tilted_problem(source)
    began = time.perf_counter()
    space = unconstrained_space(problem.program)
    draw_prior = prior_sampler(problem, space, num_particles)
    prior, tilted = prior_density(problem), tilted_density(problem, num_replicates)

    def log_prior(flat: Array) -> Array:
        latents, log_det = space.to_latents(flat)
        return prior(latents) + log_det

    def log_tilt(flat: Array) -> Array:
        latents, _ = space.to_latents(flat)
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

    runs, stats = [], []
    for run_key in jax.random.split(rng_key, num_chains):
        start_key, run_key = jax.random.split(run_key)
        state = adaptive_tempered.init(draw_prior(start_key))
        state = state._replace(tempering_param=jnp.zeros(()))
        log_normalizer, num_steps, reached = 0.0, 0, False
        # The kernel moves first and raises the temperature then: one more step moves at the end.
        while not reached:
            reached = float(state.tempering_param) >= 1.0
            run_key, step_key = jax.random.split(run_key)
            state, info = step(step_key, state)
            log_normalizer += float(info.log_likelihood_increment)
            num_steps += 1
            _require_progress(float(state.tempering_param), num_steps)
        runs.append(state.particles)
        acceptance = float(jnp.mean(info.update_info.is_accepted))
        stats.append((log_normalizer, num_steps, acceptance))

    flat = jnp.concatenate(runs)
    latents, _ = jax.jit(jax.vmap(space.to_latents))(flat)
    lp = np.asarray(jax.jit(jax.vmap(tilted))(latents)).reshape(num_chains, num_particles)
    keys = jax.random.split(jax.random.fold_in(rng_key, num_chains), len(flat))
    simulations = simulate_draws(keys, problem, latents)
    seconds = time.perf_counter() - began

    log_normalizers, temperatures, acceptances = map(np.asarray, zip(*stats, strict=True))
    replicates = num_replicates if problem.program.is_stochastic else 1
    evaluations = num_particles * (num_mcmc_steps + EVALUATIONS_PER_STEP) * int(temperatures.sum())
    attrs = {
        "inference_method": "SMC",
        "num_simulations": evaluations * replicates + len(flat),
        "sampling_time": seconds,
        "natural_parameters": json.dumps(np.asarray(problem.natural_parameters).tolist()),
    }
    return to_data(
        problem,
        jax.tree.map(lambda leaf: leaf.reshape(num_chains, -1, *leaf.shape[1:]), simulations),
        {
            "lp": lp,
            "log_q": lp - log_normalizers[:, None],
            "log_normalizer": log_normalizers,
            "num_temperatures": temperatures,
            "acceptance_rate": acceptances,
        },
        attrs,
        coords,
        dims,
    )


def _require_progress(temperature: float, num_steps: int) -> None:
    if num_steps > MAX_TEMPERATURES or not np.isfinite(temperature):
        raise ValueError(
            f"After {num_steps} steps the particles are at temperature {temperature:.3g} of 1: the "
            "statistics of hardly any draw of the prior are finite, or none is near the behavior. "
            "Guard the statistics, or raise `num_particles`."
        )
