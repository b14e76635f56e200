"""Several posteriors of one circuit in one table."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from numpyro_dsn.compare_table import format_comparison
from numpyro_dsn.wasserstein import Distance, sliced_wasserstein

MAX_DRAWS = 1000
"""Draws of each posterior behind a distance, evenly chosen."""

Modes = Callable[[dict[str, np.ndarray]], np.ndarray]


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


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
        Largest distance of an E[T] from its target, in standard deviations of T.
    num_simulations, sampling_time
        Cost in simulations and in seconds.
    ess, r_hat
        Smallest effective sample size and largest split R-hat of the latents. R-hat needs two
        chains: split draws of one fit always look as if they had mixed.
    divergences
        Number of divergent transitions.
    modes
        Share of each mode.
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


class Distances(NamedTuple):
    """Distance of two posteriors in the latents, and in the statistics that were asked about."""

    latents: Distance
    statistics: Distance


class Comparison(NamedTuple):
    """Rows by name, and distances by pair of names. Prints as a table."""

    rows: dict[str, Row]
    distances: dict[tuple[str, str], Distances]

    def __str__(self) -> str:
        return format_comparison(self)


def compare(results: Mapping[str, Any], modes: Modes | None = None) -> Comparison:
    """Compare posteriors of one circuit: what they achieve, what they cost, how far they differ.

    Parameters
    ----------
    results
        InferenceData or DataTree by name: ``DSNResult.to_inference_data()`` and what
        ``baselines`` return.
    modes
        Function of the posterior's variables, each with one leading axis of draws, that returns
        a label for each draw. Without it no shares are computed.

    Returns
    -------
    One row for each result, and two distances of every pair, in standard deviations of the pooled
    draws of all results.

    Raises
    ------
    ValueError
        If results are of different latents or statistics, or there are none.
    """
    if not results:
        raise ValueError("There is nothing to compare; give at least one result.")
    _require_same(results)
    latents, statistics = (
        {name: _draws(data, kind) for name, data in results.items()}
        for kind in ("latents", "behaviors")
    )
    labels = _mode_labels(results, modes) if modes is not None else {}
    known = sorted({label for values in labels.values() for label in np.unique(values)})
    rows = {
        name: _row(data, latents[name], labels.get(name), known) for name, data in results.items()
    }
    by_kind = _pair_distances(latents), _pair_distances(statistics)
    return Comparison(
        rows, {pair: Distances(*(found[pair] for found in by_kind)) for pair in by_kind[0]}
    )


def _row(data: Any, draws: np.ndarray, labels: np.ndarray | None, known: list) -> Row:
    stats, behavior, attrs = data["sample_stats"], data["behavior"], data.attrs
    entropy = Estimate(np.nan, np.nan)
    if "log_q" in stats:
        entropy = _estimate(-np.asarray(stats["log_q"], dtype=float))
        if "log_normalizer_se" in stats:
            error = np.hypot(entropy.error, float(np.mean(stats["log_normalizer_se"])))
            entropy = entropy._replace(error=float(error))
    means, errors = np.asarray(behavior["achieved"]), np.asarray(behavior["achieved_se"])
    statistics = {
        str(label): _combine(means[:, index], errors[:, index])
        for index, label in enumerate(behavior["statistic"].values)
    }
    lower, upper = (np.asarray(data["constant_data"][name]) for name in ("lower", "upper"))
    achieved = means.mean(0)
    # The spread of one chain says nothing of the others.
    scale = np.sqrt(np.mean(np.asarray(behavior["scale"]) ** 2, axis=0) + means.var(0))
    distance = np.abs(achieved - np.clip(achieved, lower, upper))
    shares = {
        str(label): _estimate((labels == label).astype(float))
        for label in known
        if labels is not None
    }
    columns = dict(zip(_element_labels(data), np.moveaxis(draws, -1, 0), strict=True))
    return Row(
        method=str(attrs["inference_method"]),
        entropy=entropy,
        statistics=statistics,
        means={label: _estimate(column) for label, column in columns.items()},
        stds={label: _std(column) for label, column in columns.items()},
        violation=float(np.max(distance / np.where(scale > 0, scale, 1.0))),
        num_simulations=float(attrs.get("num_simulations", np.nan)),
        sampling_time=float(attrs.get("sampling_time", np.nan)),
        ess=_smallest_ess(draws),
        r_hat=float(np.max(split_gelman_rubin(draws))) if len(draws) > 1 else np.nan,
        divergences=float(np.sum(stats["diverging"])) if "diverging" in stats else np.nan,
        modes=shares,
    )


def _estimate(values: np.ndarray) -> Estimate:
    """Return the mean of draws, shape ``(num_chains, num_draws)``, and its standard error."""
    spread = values.std(1)
    errors = np.zeros(len(values))
    for chain in np.flatnonzero(spread > 0):
        ess = effective_sample_size(values[chain][None])
        errors[chain] = spread[chain] / np.sqrt(ess)
    return _combine(values.mean(1), errors)


def _std(values: np.ndarray) -> Estimate:
    """Return the standard deviation of draws and, by the delta method, its standard error."""
    variance = _estimate((values - values.mean()) ** 2)
    std = np.sqrt(variance.mean)
    return Estimate(float(std), float(variance.error / (2 * std)) if std > 0 else 0.0)


def _combine(means: np.ndarray, errors: np.ndarray) -> Estimate:
    """Return the mean over chains; its error is what they state or how they differ, if larger."""
    num_chains = len(means)
    within = np.sum(errors**2) / num_chains**2
    between = np.var(means, ddof=1) / num_chains if num_chains > 1 else 0.0
    return Estimate(float(means.mean()), float(np.sqrt(max(within, between))))


def _require_same(results: Mapping[str, Any]) -> None:
    """Raise unless all results are of the same latents and statistics."""
    found = {
        name: (
            {n: data["posterior"][n].shape[2:] for n in json.loads(data.attrs["latents"])},
            [str(label) for label in data["constant_data"]["statistic"].values],
        )
        for name, data in results.items()
    }
    first = next(iter(found))
    for name, value in found.items():
        if value != found[first]:
            raise ValueError(
                f"'{first}' and '{name}' are of different problems: latents and statistics are "
                f"{found[first]} and {value}; compare results of one model and behavior."
            )


def _draws(data: Any, kind: str) -> np.ndarray:
    """Return latents or behaviors, shape ``(num_chains, num_draws, dim)``."""
    posterior = data["posterior"]
    columns = [
        np.asarray(posterior[name], dtype=float).reshape(*posterior[name].shape[:2], -1)
        for name in json.loads(data.attrs[kind])
    ]
    return np.concatenate(columns, axis=-1)


def _element_labels(data: Any) -> list[str]:
    """Return one label for each element of the latents, in the order of their draws."""
    labels = []
    for name in json.loads(data.attrs["latents"]):
        variable = data["posterior"][name]
        dims = variable.dims[2:]
        for index in np.ndindex(*variable.shape[2:]):
            at = [str(variable[dim].values[i]) for dim, i in zip(dims, index, strict=True)]
            labels.append(f"{name}[{', '.join(at)}]" if at else name)
    return labels


def _pair_distances(draws: dict[str, np.ndarray]) -> dict[tuple[str, str], Distance]:
    scale = np.concatenate([value.reshape(-1, value.shape[-1]) for value in draws.values()]).std(0)
    unit = np.where(scale > 0, scale, 1.0)[None]
    thinned = {
        name: _thin(value.reshape(-1, value.shape[-1])) / unit for name, value in draws.items()
    }
    effective = {name: max(int(_smallest_ess(value)), 1) for name, value in draws.items()}
    return {
        (one, other): sliced_wasserstein(
            thinned[one], thinned[other], (effective[one], effective[other])
        )
        for one, other in itertools.combinations(draws, 2)
    }


def _smallest_ess(draws: np.ndarray) -> float:
    """Return the smallest effective sample size of the columns that vary."""
    varying = draws[..., np.ptp(draws, axis=(0, 1)) > 0]
    if varying.shape[-1] == 0:
        return float(draws.shape[0] * draws.shape[1])
    return float(np.min(effective_sample_size(varying)))


def _mode_labels(results: Mapping[str, Any], modes: Modes) -> dict[str, np.ndarray]:
    labels = {}
    for name, data in results.items():
        posterior = data["posterior"]
        shape = next(iter(posterior.data_vars.values())).shape[:2]
        sites = {
            str(n): np.asarray(v).reshape(-1, *v.shape[2:]) for n, v in posterior.data_vars.items()
        }
        found = np.asarray(modes(sites))
        if found.shape != (shape[0] * shape[1],):
            raise ValueError(
                f"`modes` returned an array of shape {found.shape} for the {shape[0] * shape[1]} "
                f"draws of '{name}'; it must return one label for each draw."
            )
        labels[name] = found.reshape(shape)
    return labels


def _thin(draws: np.ndarray) -> np.ndarray:
    return draws[np.linspace(0, len(draws) - 1, min(len(draws), MAX_DRAWS)).astype(int)]
