"""What is known about one posterior."""

import json
from typing import Any, NamedTuple

import numpy as np
from numpyro.diagnostics import split_gelman_rubin

from numpyro_dsn.comparison.estimates import (
    UNKNOWN,
    Estimate,
    combine_chains,
    mean_of,
    smallest_ess,
    std_of,
)
from numpyro_dsn.inference_data import parameter_labels


class Row(NamedTuple):
    """What is known about one posterior; NaN is unknown.

    method
        ``inference_method`` of the data.
    entropy
        In nats on the constrained space; known where the engine knows its normalized density.
    statistics
        E[T] by label.
    means, stds
        Mean and standard deviation of every element of the latents, by label.
    violation
        Largest distance of an E[T] from its target, in units of what was asked of its spread; of
        its spread over the draws or the prior if nothing was.
    num_simulations, sampling_time
        Cost in simulations and in seconds.
    ess, r_hat
        Smallest effective sample size and largest split R-hat of the latents. R-hat needs two
        chains: split draws of one fit always look as if they had mixed.
    divergences
        Number of divergent transitions.
    modes
        Fraction of the draws in each mode.
    """

    method: str
    entropy: Estimate
    statistics: dict[str, Estimate]
    means: dict[str, Estimate]
    stds: dict[str, Estimate]
    violation: float
    num_simulations: float
    sampling_time: float
    ess: float
    r_hat: float
    divergences: float
    modes: dict[str, Estimate]


def row_of(data: Any, draws: np.ndarray, modes: dict[str, np.ndarray]) -> Row:
    """Return what is known about one posterior.

    Parameters
    ----------
    data
        InferenceData or DataTree.
    draws
        Its latents, shape ``(num_chains, num_draws, dim)``.
    modes
        Which draws are in each mode, shape ``(num_chains, num_draws)``.
    """
    stats, behavior, attrs = data["sample_stats"], data["behavior"], data.attrs
    means, errors = np.asarray(behavior["achieved"]), np.asarray(behavior["achieved_se"])
    labels = [str(label) for label in behavior["statistic"].values]
    latents = parameter_labels(data, json.loads(attrs["latents"]))
    columns = dict(zip(latents, np.moveaxis(draws, -1, 0), strict=True))
    return Row(
        method=str(attrs["inference_method"]),
        entropy=_entropy(stats),
        statistics={
            label: combine_chains(means[:, index], errors[:, index])
            for index, label in enumerate(labels)
        },
        means={label: mean_of(column) for label, column in columns.items()},
        stds={label: std_of(column) for label, column in columns.items()},
        violation=_violation(means, np.asarray(behavior["scale"]), data["constant_data"]),
        num_simulations=float(attrs.get("num_simulations", np.nan)),
        sampling_time=float(attrs.get("sampling_time", np.nan)),
        ess=smallest_ess(draws),
        r_hat=float(np.max(split_gelman_rubin(draws))) if len(draws) > 1 else np.nan,
        divergences=float(np.sum(stats["diverging"])) if "diverging" in stats else np.nan,
        modes={label: mean_of(inside.astype(float)) for label, inside in modes.items()},
    )


def _entropy(stats: Any) -> Estimate:
    """Return minus the mean of ``log_q``, to whose error that of its normalizer is added."""
    if "log_q" not in stats:
        return UNKNOWN
    entropy = mean_of(-np.asarray(stats["log_q"], dtype=float))
    if "log_normalizer_se" not in stats:
        return entropy
    error = np.hypot(entropy.error, float(np.mean(stats["log_normalizer_se"])))
    return entropy._replace(error=float(error))


def _violation(means: np.ndarray, scale: np.ndarray, bounds: Any) -> float:
    """Return the largest violation of all chains together, in units of what was asked."""
    lower, upper = np.asarray(bounds["lower"]), np.asarray(bounds["upper"])
    achieved, unit = means.mean(0), scale.mean(0)
    distance = np.abs(achieved - np.clip(achieved, lower, upper))
    return float(np.max(distance / np.where(unit > 0, unit, 1.0)))
