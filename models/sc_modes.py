"""What fits of the superior colliculus say of its modes, and of the bend of its weights."""

from typing import NamedTuple

import numpy as np
from jax import Array

from models.sc_simulator import MODES
from numpyro_dsn import DSNResult

SELF_RANGES = ((-2.0, -0.5), (-0.5, 0.5), (0.5, 2.0))
"""Ranges of sW in which hW bends over it."""


class ModeDraws(NamedTuple):
    """Eigenvalues of the modes over the circuits of one fit.

    values
        Shape ``(num_draws, 4)``.
    num_effective
        Number of independent draws that know their mean as well.
    """

    values: np.ndarray
    num_effective: float


def mode_draws(result: DSNResult, rng_key: Array) -> tuple[ModeDraws, ModeDraws]:
    """Return the eigenvalues of 1000 circuits of a fit, and of the certified optimum.

    Circuits of the optimum are chosen by their weights among all that were simulated; draws and
    choice both add to the error of a mean.
    """
    fitted = np.asarray(result.get_samples()["eigenvalue"])
    sites, ess = result.draw_corrected(rng_key, len(fitted))
    corrected = np.asarray(sites["eigenvalue"])
    effective = num_effective(float(ess), len(corrected))
    return ModeDraws(fitted, len(fitted)), ModeDraws(corrected, effective)


def num_effective(ess: float, num_chosen: int) -> float:
    """Return how many independent draws are worth ``num_chosen`` of ``ess`` effective ones."""
    return 1 / (1 / ess + 1 / num_chosen)


def tabulate(draws: dict[float, ModeDraws]) -> str:
    """Return the mean eigenvalue of every mode with its standard error, and the deviation."""
    lines = ["accuracy  " + "  ".join(f"{mode:>21}" for mode in MODES) + "  draws"]
    for accuracy, (values, num_effective) in sorted(draws.items()):
        cells = (
            f"{mean:+6.2f} +- {std / np.sqrt(num_effective):4.2f} ({std:5.2f})"
            for mean, std in zip(values.mean(0), values.std(0), strict=True)
        )
        row = "  ".join(f"{cell:>21}" for cell in cells)
        lines.append(f"{accuracy:8.2f}  {row}  {num_effective:5.0f}")
    return "\n".join(lines)


def bend(weights: np.ndarray) -> list[tuple[float, float]]:
    """Return the slope of hW over sW and its standard error, in each of ``SELF_RANGES``.

    Parameters
    ----------
    weights
        Draws of sW, vW, hW and dW, shape ``(num_draws, 4)``.
    """
    slopes = []
    for low, high in SELF_RANGES:
        s, _, h, _ = weights[(weights[:, 0] > low) & (weights[:, 0] < high)].T
        covariance = np.cov(s, h)
        slope = covariance[0, 1] / covariance[0, 0]
        residual = covariance[1, 1] - slope * covariance[0, 1]
        slopes.append((slope, np.sqrt(residual / covariance[0, 0] / (len(s) - 2))))
    return slopes
