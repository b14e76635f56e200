"""Averages of draws and their standard errors, over chains that may disagree."""

from typing import NamedTuple

import numpy as np
from numpyro.diagnostics import effective_sample_size


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


UNKNOWN = Estimate(np.nan, np.nan)


def mean_of(values: np.ndarray) -> Estimate:
    """Return the mean of draws, shape ``(num_chains, num_draws)``, and its standard error."""
    spread = values.std(1)
    errors = np.zeros(len(values))
    for chain in np.flatnonzero(spread > 0):
        ess = effective_sample_size(values[chain][None])
        errors[chain] = spread[chain] / np.sqrt(ess)
    return combine_chains(values.mean(1), errors)


def std_of(values: np.ndarray) -> Estimate:
    """Return the standard deviation of draws and, by the delta method, its standard error."""
    variance = mean_of((values - values.mean()) ** 2)
    std = np.sqrt(variance.mean)
    return Estimate(float(std), float(variance.error / (2 * std)) if std > 0 else 0.0)


def combine_chains(means: np.ndarray, errors: np.ndarray) -> Estimate:
    """Return the mean over chains; its error is what they state or how they differ, if larger."""
    num_chains = len(means)
    within = np.sum(errors**2) / num_chains**2
    between = np.var(means, ddof=1) / num_chains if num_chains > 1 else 0.0
    return Estimate(float(means.mean()), float(np.sqrt(max(within, between))))


def smallest_ess(draws: np.ndarray) -> float:
    """Return the smallest effective sample size of the columns that vary.

    Parameters
    ----------
    draws
        Shape ``(num_chains, num_draws, dim)``.
    """
    varying = draws[..., np.ptp(draws, axis=(0, 1)) > 0]
    if varying.shape[-1] == 0:
        return float(draws.shape[0] * draws.shape[1])
    return float(np.min(effective_sample_size(varying)))
