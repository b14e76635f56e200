"""Distance between two sets of draws, and how large it is by chance alone."""

from typing import NamedTuple

import numpy as np

NUM_LEVELS = 200
"""Quantiles at which one-dimensional distributions are compared."""


class Distance(NamedTuple):
    """Sliced Wasserstein distance of two sets of draws, in standard deviations.

    value
        The distance.
    noise
        The 95 % quantile of what two sets of draws of one distribution would show.
    p_value
        Fraction of the permutations that show at least this distance.
    """

    value: float
    noise: float
    p_value: float


def sliced_wasserstein(
    first: np.ndarray,
    second: np.ndarray,
    num_effective: tuple[int, int],
    num_directions: int = 50,
    num_permutations: int = 200,
    seed: int = 0,
) -> Distance:
    r"""Return the sliced Wasserstein distance, with a permutation test.

    .. math:: SW(a, b) = E_{|u| = 1} \int_0^1 | F_{u \cdot a}^{-1}(t) - F_{u \cdot b}^{-1}(t) | dt

    Parameters
    ----------
    first, second
        Draws, each of shape ``(num_draws, dim)``, in comparable units.
    num_effective
        Effective number of draws of each. Permutations draw so many of the pooled draws, because
        dependent draws differ by chance as much as so few independent ones.
    num_directions, num_permutations
        Number of random directions u, and of permutations.
    seed
        Seed of both.

    References
    ----------
    N. Bonneel, J. Rabin, G. Peyré and H. Pfister, *Sliced and Radon Wasserstein barycenters of
    measures*, J. Math. Imaging and Vision 51, 2015.
    """
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((first.shape[1], num_directions))
    directions /= np.linalg.norm(directions, axis=0, keepdims=True)
    first, second = (np.ascontiguousarray((draws @ directions).T) for draws in (first, second))
    value = _mean_distance(first, second)
    pooled = np.concatenate([first, second], axis=1)
    most = first.shape[1], second.shape[1]
    sizes = [max(1, min(pair)) for pair in zip(num_effective, most, strict=True)]
    chance = np.empty(num_permutations)
    for index in range(num_permutations):
        order = rng.permutation(pooled.shape[1])[: sum(sizes)]
        chance[index] = _mean_distance(*np.split(pooled[:, order], [sizes[0]], axis=1))
    p_value = (1 + np.sum(chance >= value)) / (1 + num_permutations)
    return Distance(value, float(np.quantile(chance, 0.95)), float(p_value))


def _mean_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean over rows of their one-dimensional Wasserstein distance."""
    levels = (np.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS
    one, other = (
        np.sort(rows, axis=1)[:, (levels * rows.shape[1]).astype(int)] for rows in (first, second)
    )
    return float(np.abs(one - other).mean())
