"""The map between a program's latents and their flat unconstrained vector."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import distributions as dist
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint as Support

from numpyro_dsn.program.program import Program
from numpyro_dsn.program.tracing import unwrap

INTERVALS = type(constraints.interval(0.0, 1.0)), type(constraints.open_interval(0.0, 1.0))


def constrain(program: Program, flat: Array) -> tuple[dict[str, Array], Array]:
    """Map a flat unconstrained vector to latents, as NumPyro's ``AutoContinuous`` guides do.

    Parameters
    ----------
    program
        The program.
    flat
        u, shape ``(D,)``; for a support that is an interval, the logit of the place in it.

    Returns
    -------
    Value of each latent site, and log |det dz/du|, shape ``()``.
    """
    unpacked = _unpack(program, flat)
    latents = {name: biject_to(program.supports[name])(unpacked[name]) for name in unpacked}
    return latents, _log_det(program, unpacked, latents)


def unconstrain(program: Program, latents: dict[str, Array]) -> tuple[Array, Array]:
    """Map latents to their flat unconstrained vector.

    Parameters
    ----------
    program
        The program.
    latents
        Value of each latent site, without a batch axis.

    Returns
    -------
    u, shape ``(D,)``, infinite at the end of a support; and log |det dz/du|, shape ``()``.
    """
    unpacked = {
        name: _to_free(support, jnp.asarray(latents[name], float))
        for name, support in program.supports.items()
    }
    flat = jnp.concatenate([jnp.ravel(value) for value in unpacked.values()])
    values = {name: jnp.asarray(latents[name], float) for name in unpacked}
    return flat, _log_det(program, unpacked, values)


def is_uniform(program: Program) -> np.ndarray:
    """Return whether the prior of each flat coordinate is uniform on an interval.

    The sigmoid of such a coordinate is exactly uniform under the prior, independent of all others.

    Parameters
    ----------
    program
        The program.

    Returns
    -------
    Booleans, shape ``(D,)``.
    """
    # Supports do not depend on other sites, so neither does a uniform prior.
    return np.concatenate(
        [
            np.full(int(np.prod(shape)), _is_uniform(program, name))
            for name, shape in program.free_shapes.items()
        ]
    )


def _is_uniform(program: Program, name: str) -> bool:
    return isinstance(unwrap(program.latents[name]["fn"]), dist.Uniform)


def _unpack(program: Program, flat: Array) -> dict[str, Array]:
    shapes = program.free_shapes
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = jnp.split(flat, ends[:-1])
    return {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _to_free(support: Support, value: Array) -> Array:
    base = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    if isinstance(base, INTERVALS):
        # The distance from either end keeps its digits, which the place in the interval loses.
        return jnp.log(value - base.lower_bound) - jnp.log(base.upper_bound - value)
    return biject_to(support).inv(value)


def _log_det(program: Program, unpacked: dict[str, Array], latents: dict[str, Array]) -> Array:
    terms = [
        jnp.sum(biject_to(support).log_abs_det_jacobian(unpacked[name], latents[name]))
        for name, support in program.supports.items()
    ]
    return jnp.sum(jnp.stack(terms))
