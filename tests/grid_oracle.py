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


def maximum_entropy(box, statistics):
    """Minimize the dual of E[T] = 0 by Newton's method.

    The weights meet the constraints to 1e-6, so that a result also shows that they can be met.
    """
    statistics = np.asarray(statistics, float)

    def log_mean_exp(exponent):
        top = exponent.max()
        weights = np.exp(exponent - top)
        return top + np.log(weights.mean()), weights / weights.sum()

    eta = np.zeros(statistics.shape[1])
    value, weights = log_mean_exp(statistics @ eta)
    for _ in range(100):
        gradient = weights @ statistics
        if np.abs(gradient).max() < 1e-7:
            break
        hessian = (statistics * weights[:, None]).T @ statistics - np.outer(gradient, gradient)
        step, size = -np.linalg.solve(hessian, gradient), 1.0
        while True:
            trial = log_mean_exp(statistics @ (eta + size * step))
            if trial[0] <= value + 1e-4 * size * gradient @ step or size < 1e-9:
                break
            size /= 2
        eta, (value, weights) = eta + size * step, trial
    np.testing.assert_allclose(weights @ statistics, 0, atol=1e-6)
    return Optimum(value + np.log(np.ptp(box, axis=1)).sum(), weights, -eta)
