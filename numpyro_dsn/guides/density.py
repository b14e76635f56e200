"""Maps between a guide's latents and its flat unconstrained vector, and its density."""

import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.distributions import Distribution, biject_to
from numpyro.distributions.transforms import Transform
from numpyro.infer.autoguide import AutoContinuous


def constrain(guide: AutoContinuous, flat: Array) -> tuple[dict[str, Array], Array]:
    """Map a flat unconstrained vector to latents.

    Parameters
    ----------
    guide
        A continuous guide that was set up.
    flat
        u, shape ``(D,)``.

    Returns
    -------
    Value of each latent site, and log |det dz/du|, shape ``()``.
    """
    unpacked = guide._unpack_latent(flat)
    latents = {name: _transform(guide, name)(unpacked[name]) for name in unpacked}
    return latents, _log_det(guide, unpacked, latents)


def unconstrain(guide: AutoContinuous, latents: dict[str, Array]) -> tuple[Array, Array]:
    """Map latents to the flat unconstrained vector of a guide.

    Parameters
    ----------
    guide
        A continuous guide that was set up.
    latents
        Value of each latent site, without a batch axis.

    Returns
    -------
    u, shape ``(D,)``, and log |det dz/du|, shape ``()``.
    """
    unpacked = {name: _transform(guide, name).inv(latents[name]) for name in guide._init_locs}
    flat = jnp.concatenate([jnp.ravel(value) for value in unpacked.values()])
    return flat, _log_det(guide, unpacked, latents)


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
    """Return the distribution of the flat unconstrained vector."""
    return handlers.substitute(guide._get_posterior, data=params)()


def _transform(guide: AutoContinuous, name: str) -> Transform:
    return biject_to(guide.prototype_trace[name]["fn"].support)


def _log_det(guide: AutoContinuous, unpacked: dict[str, Array], latents: dict[str, Array]) -> Array:
    terms = [
        jnp.sum(_transform(guide, name).log_abs_det_jacobian(unpacked[name], latents[name]))
        for name in unpacked
    ]
    return jnp.sum(jnp.stack(terms))
