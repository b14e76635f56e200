"""How far each pair of posteriors is apart."""

import itertools
from typing import NamedTuple

import numpy as np

from numpyro_dsn.comparison.estimates import smallest_ess
from numpyro_dsn.comparison.wasserstein import Distance, sliced_wasserstein

MAX_DRAWS = 1000
"""Draws of each posterior behind a distance, evenly chosen: a permutation sorts them all."""


class Distances(NamedTuple):
    """Distance of two posteriors in the latents, and in the statistics that were asked about."""

    latents: Distance
    statistics: Distance


def pair_distances(draws: dict[str, np.ndarray]) -> dict[tuple[str, str], Distance]:
    """Return the distance of each pair, in standard deviations of the pooled draws of all.

    Parameters
    ----------
    draws
        Draws by name, each of shape ``(num_chains, num_draws, dim)``.
    """
    flat = {name: value.reshape(-1, value.shape[-1]) for name, value in draws.items()}
    scale = np.concatenate(list(flat.values())).std(0)
    unit = np.where(scale > 0, scale, 1.0)[None]
    chosen = {name: _evenly_chosen(value) / unit for name, value in flat.items()}
    effective = {name: max(int(smallest_ess(value)), 1) for name, value in draws.items()}
    return {
        (one, other): sliced_wasserstein(
            chosen[one], chosen[other], (effective[one], effective[other])
        )
        for one, other in itertools.combinations(draws, 2)
    }


def _evenly_chosen(draws: np.ndarray) -> np.ndarray:
    return draws[np.linspace(0, len(draws) - 1, min(len(draws), MAX_DRAWS)).astype(int)]
