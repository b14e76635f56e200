"""Batches of fresh draws, by which the penalty method measures a fit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.solver.objective import Particles, gate, mean_statistics, particle
from numpyro_dsn.solver.problem import Params, Problem


class Batches(NamedTuple):
    """Statistics of ``num_batches`` batches of fresh draws.

    test_means
        Mean of T over the first part of each batch, shape ``(num_batches, num_constraints)``.
    means, variances
        Mean and variance of T in each batch, of the same shape.
    entropy, kl_to_prior
        Means over each batch, shape ``(num_batches,)``, in nats.
    nonfinite
        Fraction of draws whose statistics were not finite, shape ``(num_batches,)``.
    failed
        The same for each statistic, shape ``(num_batches, num_constraints)``.
    """

    test_means: Array
    means: Array
    variances: Array
    entropy: Array
    kl_to_prior: Array
    nonfinite: Array
    failed: Array


def draw_particles(rng_key: Array, problem: Problem, params: Params) -> Particles:
    """Draw from the flow and run the circuit once at each draw, with fresh noise."""

    def draw(key: Array) -> Particles:
        draw_key, noise_key = jax.random.split(key)
        flat, log_q = problem.flow.draw(draw_key, params)
        statistics = problem.circuit.run(noise_key, gate(flat)).statistics
        # The prior pulls even where the statistics are not finite; XLA runs the circuit once.
        run = problem.circuit.run(noise_key, flat)
        return particle(log_q - run.log_det, run.log_prior - run.log_det, statistics)

    return jax.vmap(draw)(jax.random.split(rng_key, problem.num_particles))


def measure(
    rng_key: Array, problem: Problem, params: Params, num_batches: int, test_fraction: float
) -> Batches:
    """Draw batches from a fit and average the statistics in each."""

    def batch(key: Array) -> Batches:
        particles = draw_particles(key, problem, params)
        size = max(int(test_fraction * particles.log_q.shape[0]), 1)
        test = jax.tree.map(lambda leaf: leaf[:size], particles)
        mean = mean_statistics(particles)
        deviations = jnp.where(particles.finite[:, None], particles.statistics - mean[None], 0.0)
        dtype = particles.log_q.dtype
        return Batches(
            test_means=mean_statistics(test),
            means=mean,
            variances=mean_statistics(particles._replace(statistics=deviations**2)),
            entropy=-particles.log_q.mean(),
            kl_to_prior=(particles.log_q - particles.log_prior).mean(),
            nonfinite=jnp.mean(~particles.finite, dtype=dtype),
            failed=jnp.mean(particles.failed, axis=0, dtype=dtype),
        )

    return jax.lax.map(batch, jax.random.split(rng_key, num_batches))


def violations(problem: Problem, means: Array) -> Array:
    """Return the signed distance of means from what was asked, shape ``(n, num_constraints)``."""
    lower, upper = jnp.asarray(problem.lower), jnp.asarray(problem.upper)
    return means - jnp.clip(means, lower[None], upper[None])
