"""The latents of a program as one unconstrained vector, and densities on it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density

from numpyro_dsn.baselines._problem import Problem
from numpyro_dsn.program import Program, draw_prior
from numpyro_dsn.program.exponential_family import exponential_family

Latents = dict[str, Array]
ToLatents = Callable[[Array], tuple[Latents, Array]]

FAR = 16.0
"""Where a draw at an end of its support lies: there a sigmoid is one up to rounding."""


class Space(NamedTuple):
    """Maps between latents and a flat vector of reals.

    dim
        Length of the vector.
    to_latents
        From a vector, shape ``(dim,)``, to latents and the log determinant of the map.
    to_flat
        The inverse.
    """

    dim: int
    to_latents: ToLatents
    to_flat: Callable[[Latents], Array]


def unconstrained_space(program: Program) -> Space:
    """Return the space in which NumPyro's samplers work, flattened."""
    transforms = {name: biject_to(site["fn"].support) for name, site in program.latents.items()}
    start = {name: transforms[name].inv(program.latents[name]["value"]) for name in transforms}
    flat_start, unravel = ravel_pytree(start)

    def to_latents(flat: Array) -> tuple[Latents, Array]:
        unpacked = unravel(flat)
        latents = {name: transforms[name](unpacked[name]) for name in transforms}
        log_dets = [
            jnp.sum(transforms[name].log_abs_det_jacobian(unpacked[name], latents[name]))
            for name in transforms
        ]
        return latents, sum(log_dets, jnp.zeros(()))

    def to_flat(latents: Latents) -> Array:
        unpacked = {name: transforms[name].inv(latents[name]) for name in transforms}
        return jnp.nan_to_num(ravel_pytree(unpacked)[0], posinf=FAR, neginf=-FAR)

    return Space(flat_start.size, to_latents, to_flat)


def prior_sampler(problem: Problem, space: Space, num_draws: int) -> Callable[[Array], Array]:
    """Return a function of a key that draws from the prior, shape ``(num_draws, dim)``.

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
        return jax.vmap(space.to_flat)(latents)

    return draw


def prior_density(problem: Problem) -> Callable[[Latents], Array]:
    """Return the log density of the prior, in nats."""
    # Seeded because the model's simulator still stands in it; compiled, it costs nothing.
    model = handlers.seed(problem.program.guide_model, jax.random.key(0))
    return lambda latents: log_density(model, problem.args, problem.kwargs, latents)[0]


def tilted_density(problem: Problem, num_replicates: int) -> Callable[[Latents], Array]:
    """Return the log density of the prior tilted by the natural parameters, without log Z."""
    program = problem.program
    replicates = num_replicates if program.is_stochastic else 1
    eta = jnp.asarray(problem.natural_parameters)
    model = exponential_family(program.model, program.constraints, eta, replicates)
    return lambda latents: log_density(model, problem.args, problem.kwargs, latents)[0]
