"""Latents as one flat vector on the constrained space, with a label for each element."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import biject_to

from numpyro_dsn.guides import constrain, unconstrain
from numpyro_dsn.inference_data.labels import element_label
from numpyro_dsn.program import require_latents

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult

Sites = dict[str, Array]


class Coordinates(NamedTuple):
    """How the latents line up in a flat vector of D elements.

    An element of the flat vector is also the element of the guide's flat unconstrained vector with
    the same index.

    labels
        One label for each element, such as ``g[0]``.
    shapes
        Shape of each latent site, in the order of the flat vector.
    """

    labels: list[str]
    shapes: dict[str, tuple[int, ...]]


def coordinates(result: "DSNResult") -> Coordinates:
    """Return how the latents of a fit line up.

    Raises
    ------
    ValueError
        If the elements of a site cannot move on their own, as on a simplex: directions and second
        derivatives have no meaning there.
    """
    latents = result.fit.program.latents
    for name, site in latents.items():
        support = site["fn"].support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if support.event_dim > 0:
            raise ValueError(
                f"The elements of site '{name}' depend on each other, its support is {support}; "
                "directions need elements that move on their own. Draw unbounded or interval "
                "variables and transform them with `numpyro.deterministic`."
            )
    shapes = {name: jnp.shape(latents[name]["value"]) for name in result.fit.guide._init_locs}
    labels = [
        element_label(name, index) for name, shape in shapes.items() for index in np.ndindex(*shape)
    ]
    return Coordinates(labels, shapes)


def flatten(place: Coordinates, latents: Sites) -> Array:
    """Return latents with any leading axes as flat vectors, shape ``(..., D)``."""
    parts = []
    for name, shape in place.shapes.items():
        value = jnp.asarray(latents[name], float)
        parts.append(value.reshape(value.shape[: value.ndim - len(shape)] + (-1,)))
    return jnp.concatenate(parts, axis=-1)


def unflatten(place: Coordinates, flat: Array) -> Sites:
    """Return flat vectors of shape ``(..., D)`` as latents."""
    sizes = [int(np.prod(shape)) for shape in place.shapes.values()]
    parts = jnp.split(flat, np.cumsum(sizes)[:-1], axis=-1)
    return {
        name: part.reshape(flat.shape[:-1] + shape)
        for (name, shape), part in zip(place.shapes.items(), parts, strict=True)
    }


def require_inside(result: "DSNResult", values: Sites) -> tuple[Array, tuple[int, ...]]:
    """Return flat vectors with one leading axis, and the shape of the leading axes.

    Parameters
    ----------
    result
        The fit.
    values
        Value of every latent site, with any leading axes; other sites are ignored.

    Raises
    ------
    ValueError
        If a latent site is missing or has the wrong shape, or if a value is not inside its
        support, where there is no density.
    """
    place, program = coordinates(result), result.fit.program
    latents, batch_shape = require_latents(program, values)
    for name, value in latents.items():
        support = program.latents[name]["fn"].support
        finite = jax.vmap(lambda one, name=name: jnp.all(jnp.isfinite(_free(result, name, one))))
        inside = jax.vmap(lambda one, support=support: jnp.all(support(one)))(value) & finite(value)
        if not np.all(inside):
            first = np.asarray(value)[int(np.argmin(inside))]
            raise ValueError(
                f"Site '{name}' must lie inside its support, {support}, but is {first}; there the "
                "fit has no density."
            )
    return flatten(place, latents), batch_shape


def to_unconstrained(result: "DSNResult", flat: Array) -> Array:
    """Map a flat vector on the constrained space, shape ``(D,)``, to the guide's own."""
    return unconstrain(result.fit.guide, unflatten(coordinates(result), flat))[0]


def to_constrained(result: "DSNResult", free: Array) -> Array:
    """Map the guide's flat unconstrained vector, shape ``(D,)``, to the constrained space."""
    return flatten(coordinates(result), constrain(result.fit.guide, free)[0])


def interior(result: "DSNResult", margin: float) -> tuple[Array, Array]:
    """Return bounds that leave out a share of every bounded support at either end.

    Parameters
    ----------
    result
        The fit.
    margin
        Share of the width of the support.

    Returns
    -------
    Bounds in the guide's flat unconstrained vector, each of shape ``(D,)``; infinite where the
    support is not bounded on both sides.
    """
    lower, upper = [], []
    for name, shape in coordinates(result).shapes.items():
        support = result.fit.program.latents[name]["fn"].support
        to_free = biject_to(support).inv
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
            low, high = (
                jnp.broadcast_to(jnp.asarray(bound, float), shape)
                for bound in (support.lower_bound, support.upper_bound)
            )
            lower.append(to_free(low + margin * (high - low)).ravel())
            upper.append(to_free(high - margin * (high - low)).ravel())
        else:
            infinite = jnp.full(int(np.prod(shape)), jnp.inf)
            lower.append(-infinite)
            upper.append(infinite)
    return jnp.concatenate(lower), jnp.concatenate(upper)


def held_params(result: "DSNResult") -> dict[str, Array]:
    """Return the guide's parameters of the chain that the result holds."""
    return jax.tree.map(lambda leaf: leaf[result.chain], result.params)


def require_label(place: Coordinates, label: str) -> int:
    """Return the index of an element, or raise a ``ValueError`` that lists all labels."""
    if label not in place.labels:
        raise ValueError(f"'{label}' is no parameter; the parameters are {place.labels}.")
    return place.labels.index(label)


def _free(result: "DSNResult", name: str, value: Array) -> Array:
    return biject_to(result.fit.program.latents[name]["fn"].support).inv(value)
