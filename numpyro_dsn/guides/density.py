"""The density of a guide, on the constrained and on the unconstrained space.

Not for a :class:`~numpyro_dsn.program.Program`, which maps its latents itself.
"""

import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.distributions import Distribution, biject_to
from numpyro.infer.autoguide import AutoContinuous


def log_prob(guide: AutoContinuous, params: dict[str, Array], latents: dict[str, Array]) -> Array:
    """Return the log density of a guide at given latents, on the constrained space.

    Parameters
    ----------
    guide
        A continuous guide that was set up.
    params
        Parameters of the guide.
    latents
        Value of each latent site, without a batch axis.

    Returns
    -------
    log q(z) in nats, shape ``()``.

    Raises
    ------
    NotImplementedError
        If the guide's flow has no inverse, as that of ``AutoBNAFNormal``.
    """
    flat, log_det = unconstrain(guide, latents)
    # A sum: the posterior of `AutoDiagonalNormal` has a batch axis in place of an event axis.
    return jnp.sum(unconstrained_posterior(guide, params).log_prob(flat)) - log_det


def unconstrained_posterior(guide: AutoContinuous, params: dict[str, Array]) -> Distribution:
    """Return the distribution of a guide's flat unconstrained vector."""
    return handlers.substitute(guide._get_posterior, data=params)()


def constrain(guide: AutoContinuous, flat: Array) -> dict[str, Array]:
    """Map the flat unconstrained vector of a guide, shape ``(D,)``, to latents."""
    unpacked = guide._unpack_latent(flat)
    supports = {name: guide.prototype_trace[name]["fn"].support for name in unpacked}
    return {name: biject_to(supports[name])(unpacked[name]) for name in unpacked}


def unconstrain(guide: AutoContinuous, latents: dict[str, Array]) -> tuple[Array, Array]:
    """Map latents to the flat unconstrained vector u of a guide; return also log |det dz/du|."""
    flat, log_dets = [], []
    for name in guide._init_locs:
        transform = biject_to(guide.prototype_trace[name]["fn"].support)
        free = transform.inv(latents[name])
        flat.append(jnp.ravel(free))
        log_dets.append(jnp.sum(transform.log_abs_det_jacobian(free, latents[name])))
    return jnp.concatenate(flat), jnp.sum(jnp.stack(log_dets))
