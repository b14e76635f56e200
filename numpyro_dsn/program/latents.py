"""Values of latent sites that a user gives."""

import jax.numpy as jnp
from jax import Array

from numpyro_dsn.program.program import Program


def require_latents(
    program: Program, values: dict[str, Array]
) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Return latents with one leading axis, and the shape of their leading axes.

    Parameters
    ----------
    program
        The program, which knows the latents.
    values
        Value of every latent site, with any leading axes; other sites are ignored.

    Raises
    ------
    ValueError
        If a latent site is missing, has the wrong shape, or leading axes differ.
    """
    latents, shapes = {}, {}
    for name, site in program.latents.items():
        if name not in values:
            raise ValueError(
                f"Site '{name}' is missing; give a value for every latent site, "
                f"{sorted(program.latents)}."
            )
        value, event_shape = jnp.asarray(values[name]), jnp.shape(site["value"])
        shapes[name] = value.shape[: value.ndim - len(event_shape)]
        if value.shape[len(shapes[name]) :] != event_shape:
            raise ValueError(
                f"Site '{name}' has shape {value.shape}; it must end in {event_shape}."
            )
        latents[name] = value.reshape((-1, *event_shape))
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Leading axes of the sites differ: {shapes}; they must be the same.")
    return latents, next(iter(shapes.values()))
