"""One run of the circuit at given parameters."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers

from numpyro_dsn.constraints import Constraint
from numpyro_dsn.primitives import stated_behaviors
from numpyro_dsn.program.program import Model

BATCH_SIZE = 1000
"""Circuits that are simulated at once."""


class Simulation(NamedTuple):
    """One run of the circuit.

    log_prior
        Log density of the latents under the prior, in nats.
    statistics
        T, shape ``(num_constraints,)``; floats, whatever the type of the statistics.
    sites
        Value of every sample and deterministic site.
    """

    log_prior: Array
    statistics: Array
    sites: dict[str, Array]


def simulate(
    rng_key: Array,
    model: Model,
    latents: dict[str, Array],
    constraints: Mapping[str, Constraint] | None,
    args: tuple,
    kwargs: dict,
) -> Simulation:
    """Run the circuit once at given parameters, with fresh noise from the key.

    Parameters
    ----------
    rng_key
        Key of all noise of the simulator.
    model
        Model with its behavior.
    latents
        Value of each latent site.
    constraints
        Constraints by site name; those stated in the model when ``None``.
    args, kwargs
        Arguments of the model.

    Returns
    -------
    The log prior, the statistics and all sites of this run.
    """
    # Only latents are substituted: replaying a whole guide trace breaks models that use `scan`.
    seeded = handlers.seed(handlers.substitute(model, data=latents), rng_key)
    trace = handlers.trace(seeded).get_trace(*args, **kwargs)
    log_prior = jnp.zeros(())
    for name in latents:
        site = trace[name]
        log_prob = site["fn"].log_prob(site["value"])
        log_prior += jnp.sum(log_prob if site["scale"] is None else site["scale"] * log_prob)
    asked = stated_behaviors(trace) if constraints is None else constraints
    statistics = [asked[name].statistics(trace[name]["value"]) for name in asked]
    values = {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] in ("sample", "deterministic")
    }
    # Counts and decisions have means that are no integers, and derivatives need floats.
    return Simulation(log_prior, jnp.concatenate(statistics).astype(float), values)


def simulate_many(
    keys: Array,
    model: Model,
    latents: dict[str, Array],
    constraints: Mapping[str, Constraint] | None,
    args: tuple,
    kwargs: dict,
) -> Simulation:
    """Run many circuits, each once and with a key of its own.

    Arguments are those of :func:`simulate`; keys and latents have a leading axis ``num_draws``, and
    so has the result.
    """

    def run(pair: tuple[Array, dict[str, Array]]) -> Simulation:
        return simulate(pair[0], model, pair[1], constraints, args, kwargs)

    return jax.lax.map(run, (keys, latents), batch_size=BATCH_SIZE)
