"""Compiled functions of a fit: draws, densities, simulations, and which draws are kept."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.fit import Fit
from numpyro_dsn.program import (
    BATCH_SIZE,
    Program,
    Simulation,
    constrain,
    simulate_many,
    unconstrain,
)
from numpyro_dsn.status import warn
from numpyro_dsn.weighted.acceptance import Acceptance, log_acceptance
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import Draws
from numpyro_dsn.weighted.targets import Targets, in_units

MAX_BATCHES = 100
"""Batches of draws after which those that were kept must do."""

Sites = dict[str, Array]
Params = dict[str, Array]


class FitDraws(NamedTuple):
    """Simulated draws of a fit, each field with a leading axis ``num_samples``.

    sites
        Value of every sample and deterministic site.
    log_q, log_prior
        Log density of the fit and of the prior on the constrained space, in nats.
    """

    sites: Sites
    log_q: Array
    log_prior: Array


@partial(quick_jit, static_argnames=("flow", "num_samples"))
def draw_flat(flow: Any, rng_key: Array, params: Params, num_samples: int) -> tuple[Array, Array]:
    """Return draws of a flow in unconstrained space and their log densities there.

    Shapes are ``(num_samples, D)`` and ``(num_samples,)``; all fits of a size share the program.
    """
    keys = jax.random.split(rng_key, num_samples)
    return jax.lax.map(lambda key: flow.draw(key, params), keys, batch_size=BATCH_SIZE)


def density_program(fit: Fit) -> Callable[[Params, Sites], Array]:
    """Return a compiled function of parameters and latents: the flow's log density at them."""
    program = fit.program

    def density(params: Params, latents: Sites) -> Array:
        inside = [jnp.all(program.supports[name](latents[name])) for name in program.supports]
        flat, log_det = unconstrain(program, latents)
        # The ends of a support are infinitely far in unconstrained space: no density there.
        inside.append(jnp.all(jnp.isfinite(flat)))
        value = fit.flow.log_prob(params, flat[None])[0] - log_det
        return jnp.where(jnp.all(jnp.stack(inside)), value, -jnp.inf)

    return jax.jit(jax.vmap(density, (None, 0)))


def constrain_program(program: Program) -> Callable[[Array], tuple[Sites, Array]]:
    """Return a compiled function from flat vectors to latent sites and log determinants."""

    def to_latents(flat: Array) -> tuple[Sites, Array]:
        return constrain(program, flat)

    return quick_jit(jax.vmap(to_latents))


def simulation_program(
    program: Program, args: tuple, kwargs: dict
) -> Callable[[Array, Sites], Simulation]:
    """Return a compiled function of a key and latents that simulates each once."""

    @jax.jit
    def run_all(rng_key: Array, latents: Sites) -> Simulation:
        keys = jax.random.split(rng_key, len(jax.tree.leaves(latents)[0]))
        return simulate_many(keys, program.model, latents, program.constraints, args, kwargs)

    return run_all


def replicate_program(fit: Fit) -> Callable[[Array, Sites], Draws]:
    """Return a compiled function of a key and latents: means over runs, and their errors."""
    flatten = quick_jit(jax.vmap(lambda latents: unconstrain(fit.program, latents)[0]))
    return lambda rng_key, latents: fit.problem.circuit.simulate(rng_key, flatten(latents))


@quick_jit
def as_draws(run: Simulation) -> Draws:
    """Return draws that were simulated once, by a simulator without noise."""
    size, num_constraints = run.statistics.shape
    return Draws(
        flat=jnp.zeros((size, 0)),
        statistics=run.statistics,
        noise=jnp.zeros((size, 0, num_constraints)),
        log_prior=run.log_prior,
        log_det=jnp.zeros(size),
        finite=jnp.all(jnp.isfinite(run.statistics), axis=-1) & jnp.isfinite(run.log_prior),
    )


@quick_jit
def log_kept(rule: Acceptance, targets: Targets, log_q: Array, draws: Draws) -> Array:
    """Return the log probability that each draw of a flow is kept, shape ``(num_samples,)``.

    Parameters
    ----------
    rule
        Which draws are kept.
    targets
        Targets with their units.
    log_q
        Log density of the flow at the draws, on the constrained space.
    draws
        The draws, simulated, with the log density of the prior there.
    """
    return log_acceptance(rule, log_q, in_units(draws, targets))


def draw_until(
    rng_key: Array, draw: Callable[[Array], tuple[FitDraws, Array]], num_samples: int
) -> FitDraws:
    """Draw, keep some, and draw again until there are enough.

    Parameters
    ----------
    rng_key
        Key of everything.
    draw
        Function of a key that returns draws and the log probability that each is kept.
    num_samples
        Number of draws to return.
    """
    kept: list[Any] = []
    for index in range(MAX_BATCHES):
        draw_key, choice_key = jax.random.split(jax.random.fold_in(rng_key, index))
        draws, log_probability = draw(draw_key)
        threshold = np.log(np.asarray(jax.random.uniform(choice_key, log_probability.shape)))
        chosen = threshold < np.asarray(log_probability)
        kept.append(jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], draws))  # noqa: B023
        if sum(len(batch.log_q) for batch in kept) >= num_samples:
            break
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *kept)
    found = len(joined.log_q)
    if found < num_samples:
        warn(
            f"Of {MAX_BATCHES * num_samples:,} draws of the flow only {found:,} belong to the fit; "
            f"{'these are repeated' if found else 'draws that do not are returned'}. See "
            "`result.certificate`; a fit with more epochs may keep more."
        )
        joined, found = (joined, found) if found else (draws, num_samples)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[np.arange(num_samples) % found]), joined)
