"""The loss of a flow on its own draws, with the gradient of the circuit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.epoch import Params
from numpyro_dsn.flow import Flow
from numpyro_dsn.objective import gate


def path_loss(
    flow: Flow, natural_parameters: Array, origin: Array, scale: Array, num_particles: int
) -> Callable[[Array, Params], Array]:
    r"""Return a function of a key and parameters that estimates the loss of a flow.

    .. math:: KL(q_\theta \,\|\, p_\eta) = E_{u \sim q_\theta} \left[ \log q(u) - \log p(u)
              - \eta^\top T(u) \right] + \log Z

    Its gradient follows the draws alone; that of :math:`\log q_\theta` with respect to its own
    parameters is zero in the mean and left out. What is left has no noise once q is the optimum.
    A gradient knows all coordinates of a draw where its weight is a single number, so that many
    latents need no more draws than few; but a mode without draws is never found.

    Parameters
    ----------
    flow
        The guide, whose draws must have a gradient, and the circuit, with one simulation a draw.
    natural_parameters
        eta in units of ``1 / scale``, shape ``(num_constraints,)``.
    origin, scale
        Origin and unit of T, each of shape ``(num_constraints,)``.
    num_particles
        Number of draws in each evaluation.

    References
    ----------
    Roeder, Wu and Duvenaud (2017), *Sticking the landing*.
    """

    def loss(key: Array, params: Params) -> Array:
        draw_key, simulator_key = jax.random.split(key)
        flat = flow.sample(draw_key, params, num_particles)
        log_q = flow.log_prob(jax.lax.stop_gradient(params), flat)
        draws = flow.simulate(simulator_key, jax.vmap(gate)(flat))
        exponent = ((draws.statistics - origin[None]) / scale[None]) @ natural_parameters
        return jnp.where(draws.finite, log_q - draws.log_prior - exponent, 0.0).mean()

    return loss
