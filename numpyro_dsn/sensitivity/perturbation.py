"""Does behavior change along a direction? Move the parameters and simulate again."""

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import betainc
from jax.typing import ArrayLike

from numpyro_dsn.inference_data import element_label
from numpyro_dsn.sensitivity.coordinates import (
    Sites,
    element_labels,
    require_inside,
    unflatten,
)

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult


class Regression(NamedTuple):
    """A straight line through one statistic.

    slope, slope_se
        Change of the statistic per unit of distance, and its standard error.
    p_value
        Of "the slope is zero", two-sided, by Student's t-test.
    """

    slope: float
    slope_se: float
    p_value: float


class Perturbation(NamedTuple):
    """Statistics along a direction.

    distances
        Distance of each simulation from its start, shape ``(num_simulations,)``.
    statistics
        Each statistic by label, shape ``(num_simulations,)``.
    regressions
        The straight line through each of them.
    """

    distances: np.ndarray
    statistics: dict[str, np.ndarray]
    regressions: dict[str, Regression]


def perturbation_test(
    result: "DSNResult",
    rng_key: Array,
    values: Sites,
    direction: ArrayLike,
    distances: ArrayLike,
    num_replicates: int = 1,
) -> Perturbation:
    r"""Move circuits along a direction, simulate them, and regress what they do on the distance.

    .. math:: T(z + \delta v) = a + b \delta + \epsilon

    The p-value rests on the scatter about the line: noise of the simulator, and differences between
    starts if there are several. Without either, only the bend of the statistic is left, and the
    slope is what to look at.

    Parameters
    ----------
    result
        The fit.
    rng_key
        Key of the simulator's noise.
    values
        Where to start: value of every latent site, with any leading axes.
    direction
        v, such as ``curvature(...).sensitive``, shape ``(D,)``; its length is one afterwards.
    distances
        Values of delta, in the unit of the parameters, shape ``(num_distances,)``.
    num_replicates
        Number of simulations at each distance of each start.

    Returns
    -------
    Distances, the behavior's statistics and their regressions.

    Raises
    ------
    ValueError
        If the direction has the wrong shape or no length, if there are fewer than three different
        simulations, or if a moved circuit leaves the support.
    """
    program = result.fit.program
    flat, _ = require_inside(program, values)
    labels = element_labels(program)
    direction, distances = jnp.asarray(direction, float), jnp.asarray(distances, float)
    if direction.shape != (len(labels),):
        raise ValueError(
            f"`direction` has shape {direction.shape}; give one component for each parameter, "
            f"{labels}."
        )
    norm = jnp.linalg.norm(direction)
    if not (norm > 0 and jnp.isfinite(norm)):
        raise ValueError(f"`direction` must have a finite length > 0, but is {direction}.")
    if num_replicates < 1:
        raise ValueError(f"`num_replicates` must be at least 1, but is {num_replicates}.")
    if distances.ndim != 1 or len(set(distances.tolist())) < 3:
        raise ValueError(
            f"`distances` must have shape (num_distances,) and three different values or more, "
            f"but is {distances}."
        )
    steps = distances[:, None] * (direction / norm)[None]
    moved = flat[:, None] + steps[None]
    try:
        require_inside(program, unflatten(program, moved))
    except ValueError as error:
        raise ValueError(f"{error} Take shorter `distances`, or a start farther inside.") from None
    repeated = jnp.repeat(moved[:, :, None], num_replicates, axis=2)
    sites = result.predictive(rng_key, values=unflatten(program, repeated))
    along = np.broadcast_to(np.asarray(distances)[None, :, None], repeated.shape[:3]).ravel()
    statistics = {}
    for name in program.constraints:
        value = np.asarray(sites[name])
        for index in np.ndindex(*value.shape[3:]):
            statistics[element_label(name, index)] = value[(..., *index)].ravel()
    lines = {label: regress(along, value) for label, value in statistics.items()}
    return Perturbation(along, statistics, lines)


def regress(x: np.ndarray, y: np.ndarray) -> Regression:
    r"""Fit a straight line by least squares, and test its slope.

    .. math:: t = b / s_b, \qquad p = I_{\nu / (\nu + t^2)}(\nu / 2, 1 / 2), \qquad \nu = n - 2

    Parameters
    ----------
    x, y
        The data, each of shape ``(n,)``; pairs that are not finite are left out.

    Raises
    ------
    ValueError
        If fewer than three pairs are finite.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite].astype(float), y[finite].astype(float)
    if len(x) < 3:
        raise ValueError(f"A regression needs three finite pairs or more, but has {len(x)}.")
    degrees = len(x) - 2
    spread = np.sum((x - x.mean()) ** 2)
    slope = np.sum((x - x.mean()) * (y - y.mean())) / spread
    residual = y - y.mean() - slope * (x - x.mean())
    slope_se = np.sqrt(np.sum(residual**2) / degrees / spread)
    if slope_se == 0:
        return Regression(float(slope), 0.0, float(slope == 0))
    t = slope / slope_se
    p_value = betainc(0.5 * degrees, 0.5, jnp.asarray(degrees / (degrees + t**2)))
    return Regression(float(slope), float(slope_se), float(p_value))
