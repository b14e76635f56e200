"""Whether any distribution over the simulated circuits can meet the constraints."""

import numpy as np

MAX_STEPS = 2000
MIN_SHARE = 0.1
"""A statistic is named if its share of the separating direction is at least this large."""

MIN_GAIN, MIN_TAIL = 0.05, 2.5
"""A fit approaches what was asked if it shortens the way by at least this share in an epoch, and
some draws are ahead by as many standard deviations."""


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
    before: np.ndarray,
    last: np.ndarray,
    direction: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> bool:
    r"""Return whether a fit is on its way to what was asked, and nothing seems to stop it.

    .. math:: d^\top (m_{t - 1} - m_t) \ge 0.05 \, (d^\top m_{t - 1} - d^\top \mu), \qquad
              d^\top m_t - \min_i d^\top T_i \ge 2.5 \, \sigma_t

    Its mean m comes closer from epoch to epoch; and its draws, of standard deviation
    :math:`\sigma` along d, have a tail on the side of the target. Pressed against a bound they
    have none: it is one standard deviation long for an exponential distribution.

    Parameters
    ----------
    before
        Mean of T in the epoch before the last, in comparable units, shape ``(num_constraints,)``.
    last
        T of the last epoch's draws, shape ``(num_draws, num_constraints)``.
    direction
        A separating direction, shape ``(num_constraints,)``.
    lower, upper
        Bounds on E[T] in the same units, each of shape ``(num_constraints,)``.
    """
    projected, named = last @ direction, direction != 0
    target = direction[named] @ np.where(direction > 0, upper, lower)[named]
    mean, previous = projected.mean(), before @ direction
    has_tail = mean - projected.min() >= MIN_TAIL * projected.std()
    return bool(has_tail and previous - mean >= MIN_GAIN * (previous - target))


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
