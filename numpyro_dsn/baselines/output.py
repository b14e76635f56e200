"""From draws of any engine to the ArviZ data that a fit has too."""

import json
from typing import Any

import jax
import numpy as np
from jax import Array
from numpyro.diagnostics import effective_sample_size

from numpyro_dsn.baselines._problem import Problem
from numpyro_dsn.inference_data import Coords, Dims, sites_dataset, to_container
from numpyro_dsn.program import Program, Simulation, simulate_many


def simulate_draws(keys: Array, problem: Problem, latents: dict[str, Array]) -> Simulation:
    """Simulate many circuits, each once and with a key of its own.

    Parameters
    ----------
    keys
        Keys of the noise, shape ``(num_draws,)``.
    problem
        The problem.
    latents
        Value of each latent site, with a leading axis ``num_draws``.
    """
    program, args, kwargs, _ = problem

    @jax.jit
    def run_all(keys: Array, latents: dict[str, Array]) -> Simulation:
        return simulate_many(keys, program.model, latents, program.constraints, args, kwargs)

    return run_all(keys, latents)


def by_chain(tree: Any, num_chains: int) -> Any:
    """Return arrays with the leading axes ``(num_chains, num_draws)`` in place of one."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(num_chains, -1, *leaf.shape[1:]), tree
    )


def to_data(
    problem: Problem,
    runs: Simulation,
    stats: dict[str, np.ndarray],
    attrs: dict[str, Any],
    coords: Coords | None,
    dims: Dims | None,
) -> Any:
    """Return the draws of an engine with the variables, dims and coords of a fit.

    Parameters
    ----------
    problem
        The problem.
    runs
        One simulation of each draw, all with leading axes ``(num_chains, num_draws)``.
    stats
        Statistics of the engine, of shape ``(num_chains, num_draws)`` or ``(num_chains,)``.
    attrs
        ``inference_method``, ``num_simulations``, ``sampling_time`` in s, and what else is known.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    Groups ``posterior`` (latents and statistics), ``posterior_predictive`` (all sites that are no
    latents, if any), ``sample_stats``, ``constant_data`` (bounds on E[T]) and ``behavior``, in an
    ``InferenceData`` (ArviZ 0.x) or an ``xarray.DataTree`` (ArviZ 1.x).
    """
    import xarray

    program = problem.program
    named = set(program.latents) | set(program.constraints)
    sites = {name: np.asarray(value) for name, value in runs.sites.items()}
    draws = {
        "posterior": {name: value for name, value in sites.items() if name in named},
        "posterior_predictive": {n: v for n, v in sites.items() if n not in program.latents},
    }
    num_chains, num_draws = np.shape(runs.log_prior)
    chain_draw = {"chain": np.arange(num_chains), "draw": np.arange(num_draws)}
    stats = {"log_prior": np.asarray(runs.log_prior), **stats}
    variables = {name: (["chain", "draw"][: np.ndim(v)], v) for name, v in stats.items()}
    statistic = {"statistic": program.labels}
    bounds = {"lower": np.asarray(program.lower), "upper": np.asarray(program.upper)}
    achieved = _achieved(program, np.asarray(runs.statistics))
    groups = {
        # A model may have no site but its latents.
        **{
            group: sites_dataset(program, chosen, coords or {}, dims or {})
            for group, chosen in draws.items()
            if chosen
        },
        "sample_stats": xarray.Dataset(variables, coords=chain_draw),
        "constant_data": xarray.Dataset(
            {name: (["statistic"], bound) for name, bound in bounds.items()}, coords=statistic
        ),
        "behavior": xarray.Dataset(
            {name: (["chain", "statistic"], value) for name, value in achieved.items()},
            coords={"chain": np.arange(num_chains), **statistic},
        ),
    }
    names = {
        "latents": json.dumps(sorted(program.latents)),
        "behaviors": json.dumps(sorted(program.constraints)),
    }
    return to_container(groups, {**attrs, **names})


def _achieved(program: Program, statistics: np.ndarray) -> dict[str, np.ndarray]:
    """Return E[T] of every chain, its standard error, and the violation.

    Violations are in units of what was asked, or, where no spread was asked, of the spread of T
    over all draws.
    """
    mean, spread = statistics.mean(1), statistics.std(1)
    scale = np.where(np.isnan(program.units), statistics.std((0, 1)), program.units)
    lower, upper = np.asarray(program.lower), np.asarray(program.upper)
    with np.errstate(divide="ignore", invalid="ignore"):
        ess = np.stack([effective_sample_size(chain[None]) for chain in statistics])
        violation = (mean - np.clip(mean, lower[None], upper[None])) / scale[None]
    of_all = {"scale": scale, "target_lower": lower, "target_upper": upper}
    return {
        "achieved": mean,
        # A statistic that never changes has no error.
        "achieved_se": np.where(spread > 0, spread / np.sqrt(np.where(spread > 0, ess, 1.0)), 0.0),
        "violation": violation,
        **{name: np.tile(value, (len(mean), 1)) for name, value in of_all.items()},
    }
