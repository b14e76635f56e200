"""The solution as a NumPyro model: the prior tilted by the natural parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro import handlers
from numpyro.infer.initialization import init_to_uniform
from numpyro.primitives import Messenger

from numpyro_dsn.primitives import is_simulator
from numpyro_dsn.program import Behavior, Model, simulate, with_behavior

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
        with handlers.trace() as sites, handlers.block(hide_fn=_is_simulation), _FixedKey():
            combined(*args, **kwargs)
        # By name: a reparametrization makes a latent site deterministic and adds sites of its own.
        latents = {name: sites[name]["value"] for name in _latent_names(combined, args, kwargs)}

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


def _latent_names(model: Model, args: tuple, kwargs: dict) -> list[str]:
    """Return the names of a model's latent sites; nothing is computed."""
    names: list[str] = []

    def run(rng_key: Array) -> None:
        started = handlers.substitute(handlers.seed(model, rng_key), substitute_fn=init_to_uniform)
        trace = handlers.trace(started).get_trace(*args, **kwargs)
        names.extend(name for name, site in trace.items() if _is_latent(site))

    with handlers.block():
        jax.eval_shape(run, jax.random.key(0))
    return names


def _is_latent(site: dict) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not is_simulator(site)


def _is_simulation(site: dict) -> bool:
    # Factors stay: NUTS adds the log determinants of its transforms as such.
    return site["type"] == "deterministic" or (site["type"] == "sample" and is_simulator(site))
