"""Draws of the prior, and densities of the prior and of the tilted model."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.infer.util import log_density

from numpyro_dsn.baselines._problem import Problem
from numpyro_dsn.program import Program, constrain, draw_prior, unconstrain
from numpyro_dsn.program.exponential_family import exponential_family

Latents = dict[str, Array]

FAR = 16.0
"""Where a draw at an end of its support lies: there a sigmoid is one up to rounding."""


def to_latents(program: Program, flat: Array) -> Latents:
    """Return the latents of flat unconstrained vectors, shape ``(num_draws, D)``."""
    return jax.jit(jax.vmap(lambda one: constrain(program, one)[0]))(flat)


def prior_sampler(problem: Problem, num_draws: int) -> Callable[[Array], Array]:
    """Return a function of a key that draws from the prior, shape ``(num_draws, D)``.

    Raises
    ------
    ValueError
        If the prior is improper.
    """
    program, args, kwargs, _ = problem
    if not program.is_proper:
        raise ValueError(
            "This engine starts at draws of the prior, but the prior is improper; bound it, for "
            "instance with `numpyro.distributions.Uniform`, or use `baselines.nuts`."
        )

    @jax.jit
    def draw(rng_key: Array) -> Array:
        latents = draw_prior(rng_key, program, num_draws, args, kwargs)
        flat = jax.vmap(lambda one: unconstrain(program, one)[0])(latents)
        return jnp.nan_to_num(flat, posinf=FAR, neginf=-FAR)

    return draw


def prior_density(problem: Problem) -> Callable[[Latents], Array]:
    """Return the log density of the prior, in nats."""
    # Seeded because the model's simulator still stands in it; compiled, it costs nothing.
    model = handlers.seed(problem.program.guide_model, jax.random.key(0))
    return partial(_log_density, model, problem)


def tilted_density(problem: Problem, num_replicates: int) -> Callable[[Latents], Array]:
    """Return the log density of the prior tilted by the natural parameters, without log Z."""
    program = problem.program
    replicates = num_replicates if program.is_stochastic else 1
    eta = jnp.asarray(problem.natural_parameters)
    model = exponential_family(program.model, program.constraints, eta, replicates)
    return partial(_log_density, model, problem)


def _log_density(model: Callable, problem: Problem, latents: Latents) -> Array:
    return log_density(model, problem.args, problem.kwargs, latents)[0]
