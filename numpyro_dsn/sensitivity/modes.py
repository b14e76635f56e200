"""Modes of a fit: the summits of its density, and the share of the mass that leads to each."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.program import constrain
from numpyro_dsn.sensitivity.ascent import NUM_STEPS, ascend
from numpyro_dsn.sensitivity.coordinates import Sites, element_labels, interior
from numpyro_dsn.sensitivity.density import draw_unconstrained, log_prob_unconstrained

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult

SNAPSHOTS = (0, 1, 2, 4, 8, 16, 32, NUM_STEPS)
"""Steps of the ascents at which neighbors are connected."""

NUM_NEIGHBORS = 8

NUM_BETWEEN = 20
"""Points on each straight line: with few of them a line steps over a narrow valley."""

BATCH_SIZE = 500


class Modes(NamedTuple):
    """Modes of a fit, the one with the largest mass first.

    values
        Value of each latent site, with a leading axis ``num_modes``.
    log_prob
        Log density at the modes, in nats, shape ``(num_modes,)``.
    mass, mass_se
        Share of the fit's mass that leads to each mode and its standard error, shape
        ``(num_modes,)``.
    """

    values: Sites
    log_prob: np.ndarray
    mass: np.ndarray
    mass_se: np.ndarray


def find_modes(
    result: "DSNResult",
    rng_key: Array,
    num_starts: int = 500,
    prominence: float = 2.0,
    margin: float = 0.05,
    min_mass: float = 0.01,
) -> Modes:
    """Find the modes of a fit by optimization from many of its own draws.

    Every draw climbs the log density on the constrained space. The steps are in unconstrained
    coordinates, in units of the draws' standard deviation, so that no step size depends on the
    support. They stay within the range of the draws and inside the margins of a bounded support: a
    flow is least accurate there, and its density may even be infinite at the ends.

    A degenerate behavior has ridges, along which a flow has many summits of almost the same height.
    Two summits are one mode if some way from one to the other never falls by more than
    ``prominence`` below the lower one. The ways that are tried are the ascents themselves and
    straight lines between neighbors among them, and between pairs at random. A mode is placed at
    its highest summit that is not at a margin, if it has any. Its mass is the share of draws whose
    ascents end in it.

    Parameters
    ----------
    result
        The fit.
    rng_key
        Key of the draws.
    num_starts
        Number of draws.
    prominence
        Smallest depth of the valley between two modes, in nats.
    margin
        Share of the width of a bounded support, at either end, where no summit is looked for.
    min_mass
        Smallest mass of a mode that is listed: single ascents get stuck on the way.

    Raises
    ------
    ValueError
        If there are not more starts than parameters, ``prominence`` is negative, or ``margin`` is
        not between 0 and 1/2.

    References
    ----------
    F. Chazal et al., *Persistence-based clustering in Riemannian manifolds*, J. ACM 60(6), 2013.
    """
    program = result.fit.program
    num_parameters = len(element_labels(program))
    if num_starts <= num_parameters:
        raise ValueError(
            f"`num_starts` is {num_starts}, but there are {num_parameters} parameters; give more "
            "starts than parameters."
        )
    if not prominence >= 0:
        raise ValueError(f"`prominence` must not be negative, but is {prominence}.")
    if not 0 <= margin < 0.5:
        raise ValueError(f"`margin` must be at least 0 and below 1/2, but is {margin}.")
    paths, heights, edges, levels, is_held = _climb(result, rng_key, num_starts, margin)
    root = merge(heights, edges, levels, prominence)
    roots, counts = np.unique(root, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    order = order[: max(1, np.sum(counts >= min_mass * num_starts))]
    # Held summits come last, whatever their height.
    ranks = np.lexsort((heights, ~is_held))
    summits = np.array([ranks[root[ranks] == mode][-1] for mode in roots[order]])
    mass = counts[order] / num_starts
    tops = jnp.asarray(paths[summits, -1])
    values = jax.jit(jax.vmap(lambda u: constrain(program, u)[0]))(tops)
    return Modes(
        # In the order of the curvature's labels, which `jit` does not keep.
        {name: values[name] for name in program.latents},
        heights[summits],
        mass,
        np.sqrt(mass * (1 - mass) / num_starts),
    )


def merge(
    heights: np.ndarray, edges: np.ndarray, levels: np.ndarray, prominence: float
) -> np.ndarray:
    """Merge summits that no valley separates, the highest passes first.

    Parameters
    ----------
    heights
        Height of each summit, shape ``(num_summits,)``.
    edges
        Pairs of summits, shape ``(num_edges, 2)``.
    levels
        Lowest point on the way between the two, shape ``(num_edges,)``.
    prominence
        Smallest depth of a valley below the lower of two summits.

    Returns
    -------
    Index of the highest summit that each one belongs to, shape ``(num_summits,)``.
    """
    parent = np.arange(len(heights))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for edge in np.argsort(-levels, kind="stable"):
        low, high = sorted((root(i) for i in edges[edge]), key=lambda i: heights[i])
        if heights[low] - levels[edge] <= prominence:
            parent[low] = high
    return np.array([root(index) for index in range(len(heights))])


def _climb(
    result: "DSNResult", rng_key: Array, num_starts: int, margin: float
) -> tuple[np.ndarray, ...]:
    """Return ascents, heights of their summits, ways between them, and which end at a bound."""
    starts = draw_unconstrained(result, rng_key, num_starts)
    scale = starts.std(0)
    is_free = jnp.ones(starts.shape[1], bool)
    low, high = interior(result.fit.program, margin)
    lower, upper = jnp.maximum(starts.min(0), low), jnp.minimum(starts.max(0), high)

    def log_prob(u: Array) -> Array:
        return log_prob_unconstrained(result, u)

    def climb(start: Array) -> tuple[Array, Array, Array]:
        path = ascend(log_prob, start, scale, is_free, lower, upper)
        end = path[-1]
        # A margin of rounding: bounds and points are scaled before they are compared.
        near = 1e-4 * scale
        is_held = jnp.any((end <= lower + near) | (end >= upper - near))
        return path[jnp.array(SNAPSHOTS)], log_prob(end), is_held

    def lowest(pair: Array) -> Array:
        share = jnp.linspace(0.0, 1.0, NUM_BETWEEN + 2)[:, None]
        return jnp.min(jax.vmap(log_prob)((1 - share) * pair[0][None] + share * pair[1][None]))

    climb_all = jax.jit(lambda u: jax.lax.map(climb, u, batch_size=BATCH_SIZE))
    paths, heights, is_held = map(np.asarray, climb_all(starts))
    edges, pairs = [], []
    for snapshot in range(len(SNAPSHOTS)):
        found = _pairs(paths[:, snapshot] / np.asarray(scale), snapshot)
        edges.append(found)
        pairs.append(paths[found, snapshot])
    between = jnp.asarray(np.concatenate(pairs))
    levels = jax.jit(lambda p: jax.lax.map(lowest, p, batch_size=BATCH_SIZE))(between)
    return paths, heights, np.concatenate(edges), np.asarray(levels), is_held


def _pairs(points: np.ndarray, seed: int) -> np.ndarray:
    """Return each point with its nearest ones and with one at random, ``(num_pairs, 2)``."""
    squares = np.sum(points**2, -1)
    distance = squares[:, None] + squares[None] - 2 * points @ points.T
    np.fill_diagonal(distance, np.inf)
    num_neighbors = min(NUM_NEIGHBORS, len(points) - 1)
    nearest = np.argpartition(distance, num_neighbors - 1, axis=1)[:, :num_neighbors]
    # Without these, separate groups of points would have no way between them.
    anyone = np.random.default_rng(seed).permutation(len(points))
    partners = np.concatenate([nearest, anyone[:, None]], axis=1)
    first = np.repeat(np.arange(len(points)), partners.shape[1])
    return np.stack([first, partners.ravel()], axis=-1)
