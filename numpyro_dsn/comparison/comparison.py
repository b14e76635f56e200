"""Posteriors of one circuit side by side."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from numpyro_dsn.comparison.distances import Distances, pair_distances
from numpyro_dsn.comparison.rows import Row, row_of
from numpyro_dsn.comparison.table import format_comparison

Modes = Callable[[dict[str, np.ndarray]], np.ndarray]


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
        a label for each draw. Without it no fractions are computed.

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
    inside = _modes_of(results, modes)
    rows = {name: row_of(data, latents[name], inside[name]) for name, data in results.items()}
    by_kind = pair_distances(latents), pair_distances(statistics)
    return Comparison(
        rows, {pair: Distances(*(found[pair] for found in by_kind)) for pair in by_kind[0]}
    )


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


def _modes_of(results: Mapping[str, Any], modes: Modes | None) -> dict[str, dict[str, np.ndarray]]:
    """Return by result which of its draws are in each mode that any result has."""
    if modes is None:
        return {name: {} for name in results}
    labels = {name: _mode_labels(name, data, modes) for name, data in results.items()}
    known = sorted({label for found in labels.values() for label in np.unique(found)})
    return {name: {str(label): found == label for label in known} for name, found in labels.items()}


def _mode_labels(name: str, data: Any, modes: Modes) -> np.ndarray:
    """Return the label of each draw, shape ``(num_chains, num_draws)``."""
    posterior = data["posterior"]
    sites = {
        str(n): np.asarray(v).reshape(-1, *v.shape[2:]) for n, v in posterior.data_vars.items()
    }
    num_chains, num_draws = next(iter(posterior.data_vars.values())).shape[:2]
    found = np.asarray(modes(sites))
    if found.shape != (num_chains * num_draws,):
        raise ValueError(
            f"`modes` returned an array of shape {found.shape} for the {num_chains * num_draws} "
            f"draws of '{name}'; it must return one label for each draw."
        )
    return found.reshape(num_chains, num_draws)
