"""The map from normal noise to a mixture of normals, for flows with a mixture base."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr, logsumexp
from jax.scipy.stats import norm
from numpyro.distributions import MixtureSameFamily

NUM_BISECTIONS = 32
REACH = 12.0
"""Standard deviations around the components between which a coordinate is searched."""


def normal_to_mixture(mixture: MixtureSameFamily, noise: Array) -> tuple[Array, Array]:
    r"""Map standard normal noise to a mixture of diagonal normals, one coordinate at a time.

    .. math:: F_d(\omega_d \mid \omega_{1 \dots d-1}) = \Phi(\epsilon_d), \qquad
              \log \left| \frac{\partial \omega}{\partial \epsilon} \right|
              = \log N(\epsilon; 0, I) - \log m(\omega)

    Given the earlier coordinates, each is a mixture of normals in one dimension, with weights
    that depend on these.

    Parameters
    ----------
    mixture
        Density m: a mixture of K normals with diagonal covariances.
    noise
        epsilon, shape ``(D,)``.

    Returns
    -------
    omega, shape ``(D,)``, and the log determinant, shape ``()``.

    References
    ----------
    M. Rosenblatt, *Remarks on a multivariate transformation*, Ann. Math. Statist. 23, 1952.
    """
    components = mixture.component_distribution.base_dist
    log_weights = jax.nn.log_softmax(mixture.mixing_distribution.logits)
    coordinates = []
    for axis in range(noise.shape[0]):
        loc, scale = components.loc[:, axis], components.scale[:, axis]
        value = _quantile(noise[axis], jax.nn.log_softmax(log_weights), loc, scale)
        log_weights = log_weights + norm.logpdf(value, loc, scale)
        coordinates.append(value)
    return jnp.stack(coordinates), jnp.sum(norm.logpdf(noise)) - logsumexp(log_weights)


def _quantile(noise: Array, log_weights: Array, loc: Array, scale: Array) -> Array:
    """Return where a mixture in one dimension has the distribution function Phi(noise)."""
    # The tail on the side of the noise: the other one is one up to rounding.
    side = jnp.where(noise > 0, -1.0, 1.0)

    def excess(value: Array) -> Array:
        tail = logsumexp(log_weights + log_ndtr(side * (value - loc) / scale))
        return side * (tail - log_ndtr(side * noise))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        above = excess(middle) > 0
        return jnp.where(above, ends[0], middle), jnp.where(above, middle, ends[1])

    start = jnp.min(loc - REACH * scale), jnp.max(loc + REACH * scale)
    found = jax.lax.stop_gradient(sum(jax.lax.fori_loop(0, NUM_BISECTIONS, halve, start)) / 2)
    # A Newton step is zero at the solution, and its derivative is that of the implicit function.
    slope = jax.lax.stop_gradient(jax.grad(excess)(found))
    return found - (excess(found) - jax.lax.stop_gradient(excess(found))) / slope
