"""Any continuous AutoGuide as a flow: functions of unconstrained parameters and flat draws."""

from functools import cached_property

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.util import transform_fn

from numpyro_dsn.guides.density import unconstrained_posterior

Params = dict[str, Array]


class GuideFlow:
    """A continuous AutoGuide that was set up, as a flow.

    Compiled programs know it by identity: other than a :class:`~numpyro_dsn.guides.CubeFlow` it is
    compiled anew for every guide.

    Parameters
    ----------
    guide
        The guide.
    args, kwargs
        Arguments of its model.
    """

    def __init__(self, guide: AutoContinuous, args: tuple, kwargs: dict) -> None:
        self.guide = guide
        self.dim = int(guide.latent_dim)
        self._arguments = args, kwargs

    @cached_property
    def _transforms(self) -> dict:
        args, kwargs = self._arguments
        sites: dict[str, dict] = {}

        def run(rng_key: Array) -> None:
            seeded = handlers.seed(self.guide, rng_key)
            sites.update(handlers.trace(seeded).get_trace(*args, **kwargs))

        jax.eval_shape(run, jax.random.key(0))
        return {
            name: biject_to(site["kwargs"].get("constraint", constraints.real))
            for name, site in sites.items()
            if site["type"] == "param"
        }

    def init(self, rng_key: Array) -> Params:
        """Return unconstrained parameters at the guide's start."""
        args, kwargs = self._arguments
        seeded = handlers.seed(self.guide, rng_key)
        trace = handlers.trace(seeded).get_trace(*args, **kwargs)
        params = {name: trace[name]["value"] for name in self._transforms}
        return transform_fn(self._transforms, params, invert=True)

    def constrain(self, params: Params) -> Params:
        """Return parameters as the guide has them."""
        return transform_fn(self._transforms, params)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients."""
        params = jax.eval_shape(self.init, jax.random.key(0))
        known: list[bool] = []

        def look(params: Params) -> None:
            known.append(unconstrained_posterior(self.guide, self.constrain(params)).has_rsample)

        jax.eval_shape(look, params)
        return known[0]

    def draw(self, rng_key: Array, params: Params) -> tuple[Array, Array]:
        """Return one draw, shape ``(D,)``, and its log density, with gradients; no inverse."""
        substituted = handlers.substitute(self.guide._sample_latent, data=self.constrain(params))
        trace = handlers.trace(handlers.seed(substituted, rng_key)).get_trace()
        site = next(site for site in trace.values() if site["type"] == "sample")
        given = (site["intermediates"],) if site["intermediates"] else ()
        return site["value"], jnp.sum(site["fn"].log_prob(site["value"], *given))

    def sample(self, rng_key: Array, params: Params, num_draws: int) -> Array:
        """Return draws in unconstrained space, shape ``(num_draws, D)``."""
        posterior = unconstrained_posterior(self.guide, self.constrain(params))
        draws = jax.vmap(posterior.sample)(jax.random.split(rng_key, num_draws))
        return draws.reshape(num_draws, -1)

    def log_prob(self, params: Params, flat: Array) -> Array:
        """Return log densities, shape ``(n,)``, of unconstrained latents, shape ``(n, D)``."""
        posterior = unconstrained_posterior(self.guide, self.constrain(params))
        value = jax.vmap(posterior.log_prob)(flat)
        # The posterior of `AutoDiagonalNormal` has a batch axis in place of an event axis.
        return value.reshape(value.shape[0], -1).sum(-1)

    def from_normal(self, params: Params, noise: Array) -> tuple[Array, Array]:
        """Map standard normal noise to latents; return also the log determinant.

        Raises
        ------
        ValueError
            If the guide's base is no standard normal distribution.
        """
        try:
            transform = self.guide.get_transform(self.constrain(params))
        except (AttributeError, NotImplementedError, AssertionError) as error:
            raise ValueError(
                f"The guide {type(self.guide).__name__} has no map from normal noise to latents; "
                "use the default guide, or `AutoRealNVP`."
            ) from error

        def push(one: Array) -> tuple[Array, Array]:
            flat = transform(one)
            return flat, jnp.sum(transform.log_abs_det_jacobian(one, flat))

        return jax.vmap(push)(noise)
