"""The maximum entropy of a problem in a box of few dimensions, from all circuits of a grid."""

from typing import NamedTuple

import numpy as np


class Optimum(NamedTuple):
    """Entropy in nats; weights of the grid's circuits; multipliers in nats per unit of T."""

    entropy: float
    weights: np.ndarray
    multipliers: np.ndarray


def midpoints(box, size):
    """Return the midpoints of the cells of a grid, shape ``(size ** num_parameters, ...)``."""
    axes = [low + (high - low) * (np.arange(size) + 0.5) / size for low, high in box]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(box))


def maximum_entropy(box, statistics, densest=np.inf):
    """Minimize the dual of E[T] = 0 by Newton's method.

    The weights meet the constraints to 1e-6, so that a result also shows that they can be met; a
    ValueError shows that they cannot. No density is above ``densest`` times the uniform one.
    """
    # The last column makes the densities r = min(exp(x T), densest) average one.
    statistics = np.pad(np.asarray(statistics, float), ((0, 0), (0, 1)), constant_values=-1)
    target = np.append(np.zeros(statistics.shape[1] - 1), -1)

    def dual(x):
        exponent = statistics @ x
        free = np.minimum(exponent, np.log(densest))
        with np.errstate(over="ignore"):  # a step too long, which is shortened
            density = np.exp(free)
        return (density * (1 + exponent - free)).mean() - x @ target, density, exponent == free

    fewest = max(int(len(statistics) / densest), 1)
    x = np.zeros(target.size)
    value, density, is_free = dual(x)
    for _ in range(200):
        gradient = density @ statistics / len(statistics) - target
        if np.abs(gradient).max() < 1e-7:
            break
        # Not even all the mass where this combination is largest has a mean of zero.
        along = np.partition(statistics[:, :-1] @ x[:-1], -fewest)
        if along[-fewest:].mean() < -1e-9:
            raise ValueError(f"No density of at most {densest} has these means.")
        free = statistics[is_free]
        hessian = (free * density[is_free, None]).T @ free / len(statistics)
        step, size = -np.linalg.solve(hessian, gradient), 1.0
        while True:
            trial = dual(x + size * step)
            if trial[0] <= value + 1e-4 * size * gradient @ step or size < 1e-9:
                break
            size /= 2
        x, (value, density, is_free) = x + size * step, trial
    weights = density / density.sum()
    np.testing.assert_allclose(weights @ statistics, target, atol=1e-6)
    entropy = -weights @ np.log(np.maximum(weights * len(weights), 1e-300))
    return Optimum(entropy + np.log(np.ptp(box, axis=1)).sum(), weights, -x[:-1])
