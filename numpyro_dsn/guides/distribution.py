"""The distribution of a flow."""

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array


class FlowDistribution(dist.TransformedDistribution):
    """A base distribution behind layers whose inverse and log determinant are found together."""

    def invert(self, value: Array) -> tuple[Array, Array]:
        """Return the base's draw, and the log determinant of the layers at it.

        Parameters
        ----------
        value
            Draws, shape ``(..., D)``.
        """
        log_det = jnp.zeros(value.shape[:-1], value.dtype)
        for layer in reversed(self.transforms):
            value, change = layer.invert(value)
            log_det += change
        return value, log_det

    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        """Return the log density, of the shape of the leading axes of ``value``."""
        if intermediates is not None:
            return super().log_prob(value, intermediates)
        noise, log_det = self.invert(value)
        return self.base_dist.log_prob(noise) - log_det
