"""The solution as a NumPyro model: the prior tilted by the natural parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro import handlers
from numpyro.primitives import Messenger

from numpyro_dsn.primitives import is_simulator
from numpyro_dsn.program.evaluation import latent_sites
from numpyro_dsn.program.program import Behavior, Model
from numpyro_dsn.program.simulation import simulate
from numpyro_dsn.program.statements import with_behavior
from numpyro_dsn.program.tracing import trace_model

TILT = "tilt"
"""Name of the factor."""


def exponential_family(
    model: Model,
    behavior: Behavior | None,
    natural_parameters: Array,
    num_replicates: int = 1,
) -> Model:
    r"""Return the model whose posterior is the maximum-entropy distribution.

    .. math:: q^*(z) \propto p(z) \exp(\eta^\top \bar T(z)), \qquad
              \bar T(z) = \frac1K \sum_k T(x_k), \quad x_k \sim p(x \mid z; \text{key } k)

    For NUTS, ``NeuTraReparam`` and SMC. A stochastic simulator runs with fixed keys, so that the
    density is a function of the parameters alone; its noise is averaged and not tilted.

    Parameters
    ----------
    model
        A NumPyro model.
    behavior
        A callable, a dict, or ``None`` if the model states its behavior.
    natural_parameters
        eta of T, shape ``(num_constraints,)``, as in ``Certificate.natural_parameters``.
    num_replicates
        Number K of fixed keys; one is enough for a deterministic simulator.

    Returns
    -------
    A NumPyro model of the same arguments, with the latent sites of the model and a factor.

    Raises
    ------
    ValueError
        If ``num_replicates`` is not positive.
    """
    if num_replicates < 1:
        raise ValueError(f"`num_replicates` must be at least 1, but is {num_replicates}.")
    combined = with_behavior(model, behavior)
    constraints = behavior if isinstance(behavior, Mapping) else None
    eta = jnp.asarray(natural_parameters)

    def tilted(*args: Any, **kwargs: Any) -> None:
        # This pass draws the latents; its simulation is not used and costs nothing once compiled.
        # By name: a reparametrization makes a latent site deterministic and adds sites of its own.
        names, held = _latent_and_held(combined, args, kwargs)

        def is_hidden(site: dict) -> bool:
            return _is_simulation(site) or site.get("name") in held

        with handlers.trace() as sites, handlers.block(hide_fn=is_hidden), _FixedKey():
            combined(*args, **kwargs)
        latents = {name: sites[name]["value"] for name in names}

        def statistics(key: Array) -> Array:
            return simulate(key, combined, latents, constraints, args, kwargs).statistics

        # Fixed keys: an outer seed must not change the noise from one evaluation to the next.
        with handlers.block():
            keys = jax.random.split(jax.random.key(0), num_replicates)
            mean = jax.vmap(statistics)(keys).mean(0)
        numpyro.factor(TILT, jnp.dot(eta, mean))

    return tilted


class _FixedKey(Messenger):
    """Answer ``prng_key`` statements, which no handler answers where a density is evaluated."""

    def process_message(self, message: dict) -> None:
        if message["type"] == "prng_key" and message["value"] is None:
            message["value"] = jax.random.key(0)


def _latent_and_held(model: Model, args: tuple, kwargs: dict) -> tuple[list[str], set[str]]:
    """Return the names of a model's latent sites and of those that are held; nothing is run."""
    with handlers.block():
        tracing = trace_model(jax.random.key(0), model, args, kwargs)
    latents = list(latent_sites(tracing))
    drawn = {
        name
        for name, site in tracing.sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    return latents, drawn - set(latents)


def _is_simulation(site: dict) -> bool:
    # Factors stay: NUTS adds the log determinants of its transforms as such.
    return site["type"] == "deterministic" or (site["type"] == "sample" and is_simulator(site))
