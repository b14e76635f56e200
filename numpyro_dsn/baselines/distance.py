"""How far a simulation is from the behavior, for approximate Bayesian computation."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.constraints import Constraint, Covariance, Moments
from numpyro_dsn.program import Program

Distance = Callable[[dict[str, Array]], Array]


def behavior_distance(program: Program, tolerance: Mapping[str, ArrayLike] | None) -> Distance:
    r"""Return the distance of one simulation to what was asked, in tolerances.

    .. math:: d(x) = \max_j \frac{|f_j(x) - \mathrm{clip}(f_j(x), l_j, u_j)|}{\sigma_j}

    A target with a standard deviation, ``Moments(mean, std)`` or ``Covariance``, has :math:`l = u`
    at its mean and that standard deviation as its tolerance. It is f that is compared and not
    (f - mean)^2: no single simulation should have a variance.

    Parameters
    ----------
    program
        The program.
    tolerance
        Tolerance by behavior, in the units of the statistic: a number or an array of its shape.
        Needed for every behavior whose target has no standard deviation.

    Returns
    -------
    A function of the sites of one simulation; infinite where a statistic is not finite.

    Raises
    ------
    ValueError
        If a tolerance is missing, not positive, of the wrong shape, or of no behavior.
    """
    given = {} if tolerance is None else dict(tolerance)
    unknown = set(given) - set(program.constraints)
    if unknown:
        raise ValueError(
            f"`tolerance` names {sorted(unknown)}; the behaviors are {sorted(program.constraints)}."
        )
    windows = {
        name: _window(name, constraint, given.get(name))
        for name, constraint in program.constraints.items()
    }

    def distance(sites: dict[str, Array]) -> Array:
        terms = []
        for name, (lower, upper, scale, statistic) in windows.items():
            value = statistic(sites[name])
            terms.append(jnp.abs(value - jnp.clip(value, lower, upper)) / scale)
        largest = jnp.max(jnp.concatenate(terms))
        return jnp.where(jnp.isfinite(largest), largest, jnp.inf)

    return distance


def _window(name: str, constraint: Constraint, given: ArrayLike | None) -> tuple:
    """Return lower and upper end, tolerance, and the function of the site that is compared."""
    lower, upper, scale, statistic = _target(constraint)
    if given is not None:
        scale = np.ravel(np.asarray(given, dtype=float))
    if scale is None:
        raise ValueError(
            f"behavior '{name}': its target has no standard deviation to serve as a tolerance; "
            f"give `tolerance={{'{name}': ...}}`, in the units of the statistic."
        )
    if scale.shape not in ((1,), lower.shape) or not np.all(np.isfinite(scale) & (scale > 0)):
        raise ValueError(
            f"behavior '{name}': `tolerance` is {scale.tolist()}; give one positive number, or one "
            f"for each of the {lower.size} elements."
        )
    return lower, upper, jnp.broadcast_to(jnp.asarray(scale), lower.shape), statistic


def _target(
    constraint: Constraint,
) -> tuple[Array, Array, np.ndarray | None, Callable[[Array], Array]]:
    """Return ends, standard deviation if there is one, and the function that is compared."""
    if isinstance(constraint, Moments) and constraint.std is not None:
        mean, std = constraint.mean, np.asarray(constraint.std, dtype=float)
    elif isinstance(constraint, Covariance):
        mean, std = constraint.mean, np.sqrt(np.diagonal(np.asarray(constraint.cov, dtype=float)))
    else:
        return (*constraint.bounds(), None, constraint.statistics)
    center = jnp.ravel(jnp.asarray(mean, dtype=float))
    return center, center, np.ravel(std), lambda value: jnp.ravel(value)
