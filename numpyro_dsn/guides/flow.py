"""The base of flow guides: a chain of layers that starts at the prior."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.special import ndtri
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_uniform
from numpyro.primitives import Messenger

from numpyro_dsn.guides.density import constrain, unconstrain
from numpyro_dsn.guides.distribution import FlowDistribution
from numpyro_dsn.guides.network import network_params
from numpyro_dsn.guides.rejection import HALF_WIDTH, RejectionFlow, from_box, to_box
from numpyro_dsn.guides.transforms import ElementwiseAffine, Layer

NUM_START_DRAWS = 2000

COMPONENT_SCALE, MIN_SCALE = 0.6, 0.01
"""Standard deviation of each component of a mixture base at the start, and the smallest: the
likelihood of a component that shrinks to a single draw would grow without end."""


class AutoFlow(AutoContinuous):
    r"""A normalizing flow on the unconstrained latents that starts at the prior.

    .. math:: u = \mu + \sigma \odot f_L(\dots f_1(\omega)), \qquad
              \omega \sim \sum_k \pi_k N(m_k, S_k)

    A subclass gives the layers f; they are the identity at the start, and the last affine layer
    matches mean and standard deviation of prior draws in unconstrained space.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    num_components
        Number of normal distributions that the base distribution mixes. With several, separate
        modes need no bridge of mass between them; but draws then have no gradient, so only
        methods that fit to weighted draws can use it.
    acceptance_dims
        Widths of the hidden layers of a network that accepts or rejects draws of this mixture
        (:class:`~numpyro_dsn.guides.rejection.RejectionFlow`). All are accepted if there are none;
        otherwise draws have no gradient.
    num_waves
        Number of waves that this network sees at the place of a draw, where it otherwise sees the
        mixture's draw: a hundred or so make filaments of a density in two dimensions thin and its
        edges sharp. Periods go from six standard deviations of the prior to a fifth of one.
    truncated
        Whether latents of an interval are coordinates of a box that the flow may leave and that
        cuts it off, in place of unbounded ones. Densities that end at the faces of the box are
        then smooth, but draws have no gradient.
    init_variance
        Start from an isotropic Gaussian of this variance around the center of the prior instead,
        in squared units of the latents (the draft's A.1.2). The map to the support is linearized
        at the center, so the variance should be small against the support.
    prefix
        Prefix of all parameter sites.
    init_loc_fn
        Where to start if the prior cannot be sampled; the start is then a Gaussian of unit
        variance in unconstrained space.

    Raises
    ------
    ValueError
        If ``init_variance``, ``num_components`` or a width is not positive.
    """

    def __init__(
        self,
        model: Callable,
        *,
        num_components: int = 1,
        acceptance_dims: tuple[int, ...] = (),
        num_waves: int = 0,
        truncated: bool = False,
        init_variance: float | None = None,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ) -> None:
        if num_components < 1:
            raise ValueError(f"`num_components` must be at least 1, but is {num_components}.")
        if init_variance is not None and not init_variance > 0:
            raise ValueError(f"`init_variance` must be > 0, but is {init_variance}.")
        if not all(isinstance(width, int) and width >= 1 for width in acceptance_dims):
            raise ValueError(
                "`acceptance_dims` must be integers of at least 1, one for each hidden layer, but "
                f"is {acceptance_dims!r}."
            )
        if num_waves < 0 or (num_waves > 0 and not acceptance_dims):
            raise ValueError(
                "`num_waves` must be 0, or positive beside `acceptance_dims`, whose network sees "
                f"the waves; but they are {num_waves} and {acceptance_dims!r}."
            )
        self.num_components = num_components
        self.acceptance_dims = tuple(acceptance_dims)
        self.num_waves = num_waves
        self.truncated = truncated
        self.init_variance = init_variance
        latents_only = handlers.block(_WithoutGradient(model), hide_fn=_is_no_latent)
        super().__init__(latents_only, prefix=prefix, init_loc_fn=init_loc_fn)

    @abstractmethod
    def _layers(self) -> list[Layer]:
        """Return the layers between base distribution and affine layer, the identity at first."""

    def get_base_dist(self) -> dist.Distribution:
        """Return the base distribution, at first of mean zero and variance one, or about so."""
        shape = (self.num_components, self.latent_dim)
        start = COMPONENT_SCALE if self.num_components > 1 else 1.0
        if self.num_components == 1 and not self._rejects:
            return dist.Normal(jnp.zeros(self.latent_dim), 1.0).to_event(1)

        def spread(key: Array) -> Array:
            return jnp.sqrt(1 - start**2) * jax.random.normal(key, shape)

        loc = numpyro.param(f"{self.prefix}_component_loc", spread)
        scale = MIN_SCALE + numpyro.param(
            f"{self.prefix}_component_scale",
            jnp.full(shape, start - MIN_SCALE),
            constraint=constraints.softplus_positive,
        )
        logits = numpyro.param(f"{self.prefix}_component_logits", jnp.zeros(self.num_components))
        components = dist.Normal(loc, scale).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)

    def _get_posterior(self) -> FlowDistribution | RejectionFlow:
        loc, scale = self._start
        affine = ElementwiseAffine(
            numpyro.param(f"{self.prefix}_loc", loc),
            numpyro.param(f"{self.prefix}_scale", scale, constraint=constraints.softplus_positive),
        )
        flow = FlowDistribution(self.get_base_dist(), [*self._layers(), affine])
        if not self._rejects:
            return flow
        layers, place = [], None
        if self.num_waves:
            bounded = np.array(self.bounded)
            place = jnp.where(bounded, 0.0, loc), jnp.where(bounded, 1.0, scale)
        if self.acceptance_dims:
            widths = (self.latent_dim + 2 * self.num_waves, *self.acceptance_dims, 1)
            networks = network_params(f"{self.prefix}_acceptance", 1, widths)
            layers = [(weight[0], bias[0]) for weight, bias in networks]
        return RejectionFlow(flow, layers, self.bounded, place, self.num_waves)

    @property
    def _rejects(self) -> bool:
        return any(self.bounded) or bool(self.acceptance_dims)

    def get_posterior(self, params: dict[str, Array]) -> dist.Distribution:
        """Return the distribution of the flat unconstrained latents."""
        return handlers.substitute(self._get_posterior, data=params)()

    def get_transform(self, params: dict[str, Array]) -> Transform:
        """Return the map from the base distribution to the flat unconstrained latents.

        Raises
        ------
        ValueError
            If the flow rejects draws: only a part of the base is mapped to latents then.
        """
        if self._rejects:
            raise ValueError(
                "A flow that rejects draws has no transform from its base to the latents; use a "
                "guide with `acceptance_dims=()` and `truncated=False`, or "
                "`numpyro_dsn.baselines.nuts(..., neutra=True)`."
            )
        return super().get_transform(params)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.bounded = tuple(
            self.truncated and is_interval(self.prototype_trace[name]["fn"].support)
            for name, value in self._init_locs.items()
            for _ in range(jnp.size(value))
        )
        loc, scale = self._match_moments(args, kwargs)
        if self.init_variance is not None:

            @jax.jit
            def to_latents(x: Array) -> Array:
                return ravel_pytree(constrain(self, from_box(x, self.bounded))[0])[0]

            jacobian = jax.jacfwd(to_latents)(loc)
            scale = jnp.sqrt(self.init_variance) / jnp.linalg.norm(jacobian, axis=0)
        if any(self.bounded):
            # Of many coordinates each must be inside nearly always: half of the draws then are.
            chance = 0.5 ** (1 / sum(self.bounded))
            largest = HALF_WIDTH / ndtri((1 + chance) / 2)
            scale = jnp.where(np.array(self.bounded), jnp.minimum(scale, largest), scale)
        self._start = loc, scale

    def _match_moments(self, args: tuple, kwargs: dict) -> tuple[Array, Array]:
        """Return mean and standard deviation of prior draws in the coordinates of the flow."""

        def prior_draw(key: Array) -> Array:
            with handlers.block():
                seeded = handlers.seed(self.model, key)
                trace = handlers.trace(seeded).get_trace(*args, **kwargs)
            latents = {name: trace[name]["value"] for name in self._init_locs}
            return to_box(unconstrain(self, latents)[0], self.bounded)[0]

        keys = jax.random.split(jax.random.key(0), NUM_START_DRAWS)
        try:
            draws = jax.jit(jax.vmap(prior_draw))(keys)
        except NotImplementedError:  # an improper prior
            start, _ = to_box(self._init_latent, self.bounded)
            return start, jnp.ones_like(start)
        finite = jnp.isfinite(draws)  # a draw at an end of its support is infinitely far here
        return draws.mean(0, where=finite), draws.std(0, where=finite)


class _WithoutGradient(Messenger):
    """Hide gradients from the rest of a model, which may have none, as that of a callback.

    NumPyro takes those of the log density when it looks for a place to start.
    """

    def postprocess_message(self, msg: dict) -> None:
        """Stop the gradient of a sample site's value."""
        if msg["type"] == "sample":
            msg["value"] = jax.lax.stop_gradient(msg["value"])


def is_interval(support: constraints.Constraint) -> bool:
    """Return whether every entry of a value with this support is bounded on both sides."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.interval(0, 1)))


def _is_no_latent(site: dict) -> bool:
    if site["type"] == "deterministic":
        return True
    return site["type"] == "sample" and site.get("infer", {}).get("simulator", False)
