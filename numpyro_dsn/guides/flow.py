"""The base of flow guides: their model, their prior and their posterior."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_uniform
from numpyro.primitives import Messenger

from numpyro_dsn.guides.density import unconstrain, unconstrained_posterior
from numpyro_dsn.guides.distribution import FlowDistribution


class AutoFlow(AutoContinuous):
    """A normalizing flow on the unconstrained latents that starts at the prior.

    A subclass gives ``_get_posterior``, a :class:`FlowDistribution`.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    prefix
        Prefix of all parameter sites.
    init_loc_fn
        Where to start if the prior cannot be sampled.
    """

    num_start_draws = 2000
    """Draws of the prior whose moments the start has."""

    def __init__(
        self,
        model: Callable,
        *,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ) -> None:
        latents_only = handlers.block(WithoutGradient(model), hide_fn=_is_no_latent)
        super().__init__(latents_only, prefix=prefix, init_loc_fn=init_loc_fn)

    def get_posterior(self, params: dict[str, Array]) -> FlowDistribution:
        """Return the distribution of the flat unconstrained latents."""
        return unconstrained_posterior(self, params)

    def _prior_moments(self, args: tuple, kwargs: dict) -> tuple[Array, Array] | None:
        """Return mean and standard deviation of unconstrained prior draws; none if improper."""

        def prior_draw(key: Array) -> Array:
            with handlers.block():
                seeded = handlers.seed(self.model, key)
                trace = handlers.trace(seeded).get_trace(*args, **kwargs)
            latents = {name: trace[name]["value"] for name in self._init_locs}
            return unconstrain(self, latents)[0]

        keys = jax.random.split(jax.random.key(0), self.num_start_draws)
        try:
            draws = jax.jit(jax.vmap(prior_draw))(keys)
        except NotImplementedError:  # an improper prior
            return None
        finite = jnp.isfinite(draws)  # a draw at an end of its support is infinitely far here
        return draws.mean(0, where=finite), draws.std(0, where=finite)


class WithoutGradient(Messenger):
    """Hide gradients from the rest of a model, which may have none, as that of a callback.

    NumPyro takes those of the log density when it looks for a place to start.
    """

    def postprocess_message(self, msg: dict) -> None:
        """Stop the gradient of a sample site's value."""
        if msg["type"] == "sample":
            msg["value"] = jax.lax.stop_gradient(msg["value"])


def _is_no_latent(site: dict) -> bool:
    if site["type"] == "deterministic":
        return True
    return site["type"] == "sample" and site.get("infer", {}).get("simulator", False)
