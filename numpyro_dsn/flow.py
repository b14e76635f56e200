"""A guide and a circuit as functions of draws in unconstrained space."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import Transform
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.epoch import Params
from numpyro_dsn.guides import constrain, unconstrain, unconstrained_posterior
from numpyro_dsn.guides.rejection import HALF_WIDTH, Estimate, RejectionFlow, to_box
from numpyro_dsn.pool import Draws
from numpyro_dsn.program import Model, Program, draw_prior, simulate

CPU_BATCH_SIZE, BATCH_SIZE = 500, 32_000
"""Number of simulations at once: many leave the cache of a CPU, few an accelerator idle."""


class Flow(NamedTuple):
    """What the method needs of a guide and a circuit.

    sample
        Function of a key, parameters and a number that returns draws in unconstrained space.
    log_prob
        Function of parameters and draws that returns log densities in unconstrained space.
    estimate
        Function of a key, parameters and draws that returns noisy log densities of a flow that
        rejects draws, and what these cost; exact ones of all others, and zero.
    propose
        Function of a key, parameters and a number that returns draws in the coordinates of the
        flow, before any are rejected.
    coordinates
        Function from unconstrained space to the coordinates of the flow.
    limits
        Largest magnitude of each of these coordinates.
    simulate
        Function of a key and draws that simulates them.
    """

    sample: Callable[[Array, Params, int], Array]
    log_prob: Callable[[Params, Array], Array]
    estimate: Callable[[Array, Params, Array], Estimate]
    propose: Callable[[Array, Params, int], Array]
    coordinates: Callable[[Array], Array]
    limits: tuple[float, ...]
    simulate: Callable[[Array, Array], Draws]


def build_flow(
    program: Program,
    guide: AutoContinuous,
    constrain_params: Callable[[Params], Params],
    num_replicates: int,
    args: tuple,
    kwargs: dict,
) -> Flow:
    """Return sampling, density and simulation of draws in unconstrained space.

    Parameters
    ----------
    program
        The program.
    guide
        A continuous guide that was set up.
    constrain_params
        Function from unconstrained to constrained parameters of the guide.
    num_replicates
        Number of simulations of each draw, if the simulator is stochastic.
    args, kwargs
        Arguments of the model.
    """
    replicates = num_replicates if program.is_stochastic else 1

    def sample(rng_key: Array, params: Params, num_draws: int) -> Array:
        posterior = unconstrained_posterior(guide, constrain_params(params))
        if isinstance(posterior, RejectionFlow):
            return posterior.sample(rng_key, (num_draws,))
        draws = jax.vmap(posterior.sample)(jax.random.split(rng_key, num_draws))
        return draws.reshape(num_draws, -1)

    def log_prob(params: Params, flat: Array) -> Array:
        posterior = unconstrained_posterior(guide, constrain_params(params))
        if isinstance(posterior, RejectionFlow):
            return posterior.log_prob(flat)
        value = jax.vmap(posterior.log_prob)(flat)
        return value.reshape(value.shape[0], -1).sum(-1)

    bounded = getattr(guide, "bounded", (False,) * guide.latent_dim)

    def estimate(rng_key: Array, params: Params, flat: Array) -> Estimate:
        posterior = unconstrained_posterior(guide, constrain_params(params))
        if isinstance(posterior, RejectionFlow):
            return posterior.estimate(rng_key, flat)
        return Estimate(log_prob(params, flat), jnp.zeros(()))

    def propose(rng_key: Array, params: Params, num_draws: int) -> Array:
        posterior = unconstrained_posterior(guide, constrain_params(params))
        if isinstance(posterior, RejectionFlow):
            return jax.vmap(posterior.flow.sample)(jax.random.split(rng_key, num_draws))
        return sample(rng_key, params, num_draws)

    def coordinates(flat: Array) -> Array:
        return jax.vmap(lambda u: to_box(u, bounded)[0])(flat)

    def simulate_one(key_and_flat: tuple[Array, Array]) -> Draws:
        key, flat = key_and_flat
        latents, log_det = constrain(guide, flat)

        def replicate(key: Array) -> tuple[Array, Array]:
            constraints = program.constraints
            run = simulate(key, program.model, latents, constraints, args, kwargs)
            return run.statistics, run.log_prior

        statistics, log_prior = jax.vmap(replicate)(jax.random.split(key, replicates))
        mean = statistics.mean(0)
        finite = jnp.all(jnp.isfinite(mean))
        noise = (statistics - mean[None]) / max(replicates * (replicates - 1), 1) ** 0.5
        return Draws(
            flat=flat,
            statistics=jnp.where(finite, mean, 0.0),
            noise=jnp.where(finite, noise, 0.0),
            log_prior=log_prior[0] + log_det,
            log_det=log_det,
            finite=finite,
        )

    def simulate_all(rng_key: Array, flat: Array) -> Draws:
        keys = jax.random.split(rng_key, flat.shape[0])
        size = CPU_BATCH_SIZE if jax.default_backend() == "cpu" else BATCH_SIZE
        return jax.lax.map(simulate_one, (keys, flat), batch_size=max(size // replicates, 1))

    limits = tuple(HALF_WIDTH if is_bounded else np.inf for is_bounded in bounded)
    return Flow(sample, log_prob, estimate, propose, coordinates, limits, simulate_all)


def prior_sampler(
    program: Program, guide: AutoContinuous, args: tuple, kwargs: dict
) -> Callable[[Array, int], Array] | None:
    """Return a function that draws from the prior in unconstrained space.

    ``None`` is returned if the prior is improper.
    """
    if not program.is_proper:
        return None

    def sample(rng_key: Array, num_draws: int) -> Array:
        latents = draw_prior(rng_key, program, num_draws, args, kwargs)
        return jax.vmap(lambda z: unconstrain(guide, z)[0])(latents)

    return sample


def require_density(log_prob: Callable[[Params, Array], Array], params: Params, dim: int) -> None:
    """Raise if a guide cannot evaluate its density at given draws."""
    try:
        jax.eval_shape(log_prob, params, jnp.zeros((1, dim)))
    except NotImplementedError as error:
        raise ValueError(
            "The guide's flow has no inverse, so it cannot be fitted to weighted draws; use "
            "`AutoRealNVP`, or `multipliers=PenaltyMethod()`, which needs no such density."
        ) from error


def set_up_guide(
    guide: AutoContinuous, program: Program, args: tuple, kwargs: dict
) -> dict[str, Transform]:
    """Run the guide once, outside any transformation; return its parameters' transforms."""
    if not isinstance(guide, AutoContinuous):
        raise TypeError(
            f"`guide` must be a continuous AutoGuide with a density, but is {guide!r}; use for "
            "instance `AutoRealNVP(model)`."
        )
    # Before the guide runs, which has a less helpful message for discrete noise.
    given, expected = _sample_sites(guide.model, args, kwargs), set(program.latents)
    if given != expected:
        raise ValueError(
            f"The guide has latent sites {sorted(given)} but the model has {sorted(expected)}; "
            "noise of the simulator must be hidden from the guide, for instance with "
            "`AutoIAFNormal(numpyro.handlers.block(model, hide=[...]))`."
        )
    trace = handlers.trace(handlers.seed(guide, jax.random.key(0))).get_trace(*args, **kwargs)
    return {
        name: biject_to(site["kwargs"].get("constraint", constraints.real))
        for name, site in trace.items()
        if site["type"] == "param"
    }


def _sample_sites(model: Model, args: tuple, kwargs: dict) -> set[str]:
    """Return the names of a model's sample sites; nothing is computed."""
    names: set[str] = set()

    def run(rng_key: Array) -> None:
        seeded = handlers.seed(model, rng_key)
        started = handlers.substitute(seeded, substitute_fn=init_to_uniform)
        trace = handlers.trace(started).get_trace(*args, **kwargs)
        names.update(name for name, site in trace.items() if site["type"] == "sample")

    jax.eval_shape(run, jax.random.key(0))
    return names
