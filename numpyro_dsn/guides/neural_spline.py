"""The guide whose flow is :class:`~numpyro_dsn.guides.CubeFlow`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.guides.cube import CubeFlow, Params, default_flow
from numpyro_dsn.guides.distribution import FlowDistribution
from numpyro_dsn.guides.flow import AutoFlow
from numpyro_dsn.guides.transforms import Layer
from numpyro_dsn.program.tracing import unwrap


class CubeTransform(Layer):
    """The map of a :class:`CubeFlow` from logistic noise to unconstrained latents.

    Parameters
    ----------
    flow
        The flow.
    params
        Its parameters.
    """

    def __init__(self, flow: CubeFlow, params: Params) -> None:
        self.flow = flow
        self.params = params

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        y, log_det = self.flow.push(self.params, x.reshape(-1, x.shape[-1]))
        return y.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def invert(self, y: Array) -> tuple[Array, Array]:
        """Return x and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        x, log_det = self.flow.pull(self.params, y.reshape(-1, y.shape[-1]))
        return x.reshape(y.shape), -log_det.reshape(y.shape[:-1])

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        return (self.params,), (("params",), {"flow": self.flow})


class AutoNeuralSpline(AutoFlow):
    """Neural spline flow of the prior's unit cube onto itself: a guide for :class:`CubeFlow`.

    Its parameters are those of the flow; ``auto_loc`` and ``auto_scale``, which make the cube, are
    not trained.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    num_layers
        Number of couplings; by default as many as move every coordinate twice.
    num_transformed
        Number of coordinates that a coupling moves, given all others; by default a quarter of them,
        and one of two or three.
    num_bins, num_octaves, hidden_dim
        As in :class:`CubeFlow`.
    prefix
        Prefix of all parameter sites.
    init_loc_fn
        Where to start if the prior cannot be sampled; the start is then a logistic distribution of
        scale two there in unconstrained space.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios (2019), *Neural Spline Flows*.
    """

    def __init__(
        self,
        model: Callable,
        *,
        num_layers: int | None = None,
        num_transformed: int | None = None,
        num_bins: int = CubeFlow.num_bins,
        num_octaves: int = CubeFlow.num_octaves,
        hidden_dim: int = CubeFlow.hidden_dim,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ) -> None:
        self.num_layers = num_layers
        self.num_transformed = num_transformed
        self.num_bins = num_bins
        self.num_octaves = num_octaves
        self.hidden_dim = hidden_dim
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn)

    @property
    def flow(self) -> CubeFlow:
        """The flow, once the guide was set up by a first call."""
        return default_flow(
            self.latent_dim,
            self.num_layers,
            self.num_transformed,
            num_bins=self.num_bins,
            num_octaves=self.num_octaves,
            hidden_dim=self.hidden_dim,
            prefix=self.prefix,
        )

    def get_base_dist(self) -> dist.Distribution:
        """Return standard logistic noise, which is uniform on the cube."""
        return dist.Logistic(jnp.zeros(self.latent_dim), 1.0).to_event(1)

    def _get_posterior(self) -> FlowDistribution:
        flow, start = self.flow, self.start
        names = jax.eval_shape(flow.init, jax.random.key(0), *start)

        def initial(name: str) -> Callable[[Array], Array]:
            return lambda key: flow.init(key, *start)[name]

        params = {name: numpyro.param(name, initial(name)) for name in names}
        return FlowDistribution(self.get_base_dist(), CubeTransform(flow, params))

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        moments = self._prior_moments(args, kwargs)
        if moments is None:
            self.start = self._init_latent, jnp.full_like(self._init_latent, 2.0)
            return
        mean, deviation = moments
        uniform = self._is_uniform()
        loc = jnp.where(uniform, 0.0, mean)
        # The standard logistic distribution has the variance pi^2 / 3.
        self.start = loc, jnp.where(uniform, 1.0, deviation * np.sqrt(3) / np.pi)

    def _is_uniform(self) -> np.ndarray:
        """Return for each coordinate whether its prior is uniform: its logit is logistic."""
        priors = {name: unwrap(self.prototype_trace[name]["fn"]) for name in self._init_locs}
        parts = [
            np.full(jnp.size(value), isinstance(priors[name], dist.Uniform))
            for name, value in self._init_locs.items()
        ]
        return np.concatenate(parts)
