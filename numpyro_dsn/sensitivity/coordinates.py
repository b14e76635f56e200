"""Latents as one flat vector on the constrained space, with a label for each element.

An element of this vector is also the element of the program's unconstrained vector with the same
index, because the elements of a latent move on their own here.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions.constraints import Constraint as Support

from numpyro_dsn.inference_data import element_label
from numpyro_dsn.program import Program, constrain, require_latents, unconstrain

Sites = dict[str, Array]


def element_labels(program: Program) -> list[str]:
    """Return one label for each element, such as ``g[0]``.

    Raises
    ------
    ValueError
        If the elements of a site cannot move on their own, as on a simplex: directions and second
        derivatives have no meaning there.
    """
    for name, support in program.supports.items():
        base = _of_elements(support)
        if base.event_dim > 0:
            raise ValueError(
                f"The elements of site '{name}' depend on each other, its support is {base}; "
                "directions need elements that move on their own. Draw unbounded or interval "
                "variables and transform them with `numpyro.deterministic`."
            )
    shapes = program.free_shapes.items()
    return [element_label(name, index) for name, shape in shapes for index in np.ndindex(*shape)]


def require_label(program: Program, label: str) -> int:
    """Return the index of an element, or raise a ``ValueError`` that lists all labels."""
    labels = element_labels(program)
    if label not in labels:
        raise ValueError(f"'{label}' is no parameter; the parameters are {labels}.")
    return labels.index(label)


def flatten(program: Program, latents: Sites) -> Array:
    """Return latents with any leading axes as flat vectors, shape ``(..., D)``."""
    parts = []
    for name, shape in program.free_shapes.items():
        value = jnp.asarray(latents[name], float)
        parts.append(value.reshape(value.shape[: value.ndim - len(shape)] + (-1,)))
    return jnp.concatenate(parts, axis=-1)


def unflatten(program: Program, flat: Array) -> Sites:
    """Return flat vectors of shape ``(..., D)`` as latents."""
    shapes = program.free_shapes
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = zip(shapes.items(), jnp.split(flat, ends[:-1], axis=-1), strict=True)
    return {name: part.reshape(flat.shape[:-1] + shape) for (name, shape), part in parts}


def to_unconstrained(program: Program, z: Array) -> Array:
    """Map a flat vector on the constrained space, shape ``(D,)``, to the unconstrained one."""
    return unconstrain(program, unflatten(program, z))[0]


def to_constrained(program: Program, flat: Array) -> Array:
    """Map a flat unconstrained vector, shape ``(D,)``, to the constrained space."""
    return flatten(program, constrain(program, flat)[0])


def require_inside(program: Program, values: Sites) -> tuple[Array, tuple[int, ...]]:
    """Return flat vectors with one leading axis, and the shape of the leading axes.

    Parameters
    ----------
    program
        The program.
    values
        Value of every latent site, with any leading axes; other sites are ignored.

    Raises
    ------
    ValueError
        If a latent site is missing or has the wrong shape, the elements of one depend on each
        other, or a value is not inside its support, where there is no density.
    """
    element_labels(program)
    latents, batch_shape = require_latents(program, values)
    z = flatten(program, latents)

    def is_inside(one: Array) -> Sites:
        # The ends of a support are infinitely far in unconstrained space.
        finite = unflatten(program, jnp.isfinite(to_unconstrained(program, one)))
        value = unflatten(program, one)
        supports = program.supports.items()
        return {n: jnp.all(support(value[n])) & jnp.all(finite[n]) for n, support in supports}

    for name, inside in jax.device_get(jax.jit(jax.vmap(is_inside))(z)).items():
        if not np.all(inside):
            first = np.asarray(latents[name])[int(np.argmin(inside))]
            raise ValueError(
                f"Site '{name}' must lie inside its support, {program.supports[name]}, but is "
                f"{first}; there the fit has no density."
            )
    return z, batch_shape


def interior(program: Program, margin: float) -> tuple[Array, Array]:
    """Return bounds that leave out a share of every bounded support at either end.

    Parameters
    ----------
    program
        The program.
    margin
        Share of the width of the support.

    Returns
    -------
    Bounds in the flat unconstrained vector, each of shape ``(D,)``; infinite where the support is
    not bounded on both sides.
    """
    lower, upper, bounded = {}, {}, []
    for name, shape in program.free_shapes.items():
        base, somewhere = _of_elements(program.supports[name]), program.latents[name]["value"]
        is_bounded = hasattr(base, "lower_bound") and hasattr(base, "upper_bound")
        low, high = (base.lower_bound, base.upper_bound) if is_bounded else (somewhere, somewhere)
        width = jnp.asarray(high, float) - jnp.asarray(low, float)
        lower[name] = jnp.broadcast_to(low + margin * width, shape)
        upper[name] = jnp.broadcast_to(high - margin * width, shape)
        bounded.append(np.full(int(np.prod(shape)), is_bounded))
    ends = [unconstrain(program, end)[0] for end in (lower, upper)]
    known = np.concatenate(bounded)
    return jnp.where(known, ends[0], -jnp.inf), jnp.where(known, ends[1], jnp.inf)


def _of_elements(support: Support) -> Support:
    """Return the support of a single element of an independent one."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
