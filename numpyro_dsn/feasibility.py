"""Whether any distribution over the simulated circuits can meet the constraints."""

import numpy as np

MAX_STEPS = 2000
MIN_SHARE = 0.1
"""A statistic is named if its share of the separating direction is at least this large."""

MIN_GAIN = 0.1
"""A fit approaches what was asked if its last draws shorten the way by at least this share."""


def separating_direction(
    statistics: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray | None:
    r"""Return a direction in which every draw lies beyond what was asked.

    .. math:: d^\top T_i > \max_{l \le \mu \le u} d^\top \mu \quad \text{for all } i

    No weights on the draws then meet the constraints. The direction points from the box of
    allowed means to the nearest point of the draws' convex hull, which the Frank-Wolfe method
    approaches.

    Parameters
    ----------
    statistics
        T in comparable units, shape ``(num_draws, num_constraints)``.
    lower, upper
        Bounds on E[T] in the same units, each of shape ``(num_constraints,)``.

    Returns
    -------
    d, shape ``(num_constraints,)``, or ``None`` if none was found.

    References
    ----------
    Jaggi (2013), *Revisiting Frank-Wolfe*.
    """
    outside = np.linalg.norm(statistics - np.clip(statistics, lower, upper), axis=1)
    point = statistics[outside.argmin()].astype(float)
    for _ in range(MAX_STEPS):
        allowed = np.clip(point, lower, upper)
        direction = point - allowed
        if not np.any(direction):
            return None
        projected = statistics @ direction
        nearest = statistics[projected.argmin()]
        if projected.min() > direction @ allowed:
            return direction / np.linalg.norm(direction)
        step = point - nearest
        length = step @ step
        if length == 0:
            return None
        point = point - np.clip(direction @ step / length, 0.0, 1.0) * step
    return None


def approaches(
    statistics: np.ndarray,
    last: np.ndarray,
    direction: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> bool:
    r"""Return whether the last draws came so much closer that others may arrive.

    .. math:: \min_{i \text{ before}} d^\top T_i - \min_{i \text{ last}} d^\top T_i
              \ge 0.1 \max(\delta, \sigma)

    where :math:`\delta` is the distance that was left, and :math:`\sigma` the standard deviation
    of :math:`d^\top T` among the last draws: a bound that is approached ever more closely, but
    cannot be passed, is none.

    Parameters
    ----------
    statistics
        T in comparable units, shape ``(num_draws, num_constraints)``.
    last
        Whether each draw is one of the last, shape ``(num_draws,)``.
    direction
        A separating direction, shape ``(num_constraints,)``.
    lower, upper
        Bounds on E[T] in the same units, each of shape ``(num_constraints,)``.
    """
    if last.all() or not last.any():
        return False
    projected = statistics @ direction
    named = direction != 0
    target = direction[named] @ np.where(direction > 0, upper, lower)[named]
    before, now = projected[~last].min(), projected[last].min()
    return bool(before - now >= MIN_GAIN * max(before - target, projected[last].std()))


def describe(direction: np.ndarray, labels: list[str]) -> str:
    """Return which statistics cannot be met, and in which direction every circuit misses them.

    Parameters
    ----------
    direction
        A separating direction, shape ``(num_constraints,)``.
    labels
        One label for each constraint.
    """
    named = np.flatnonzero(np.abs(direction) >= MIN_SHARE * np.abs(direction).max())
    if len(named) == 1:
        side = "above" if direction[named[0]] > 0 else "below"
        return f"{labels[named[0]]} is {side} its target in all of them"
    return " and ".join(labels[index] for index in named) + " cannot be met together"
