"""Rejection from the prior: the floor under every other engine."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.baselines._problem import Problem, as_problem
from numpyro_dsn.baselines.densities import prior_sampler, to_latents
from numpyro_dsn.baselines.distance import Distance, behavior_distance
from numpyro_dsn.baselines.output import by_chain, simulate_draws, to_data
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.program import BATCH_SIZE, constrain, simulate
from numpyro_dsn.result import DSNResult

MIN_ACCEPTED = 4
"""Fewer draws have no effective sample size."""


def rejection(
    rng_key: Array,
    source: Problem | DSNResult,
    *,
    num_simulations: int = 100_000,
    epsilon: float = 1.0,
    tolerance: Mapping[str, ArrayLike] | None = None,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> Any:
    r"""Simulate draws of the prior and keep those that show the behavior.

    .. math:: p(z \mid d(x) \le \epsilon) \propto p(z)\, P(d(x) \le \epsilon \mid z)

    Parameters
    ----------
    rng_key
        Key of the draws and the noise.
    source
        A fit or a problem.
    num_simulations
        Number of draws of the prior, each simulated once.
    epsilon
        Largest distance, in tolerances.
    tolerance
        Tolerance by behavior; see ``smc_abc``.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    ``InferenceData`` or ``xarray.DataTree`` with one chain of independent draws; ``sample_stats``
    has their ``distance``; the log of the accepted share, ``log_normalizer``, and its standard
    error; and ``log_q`` in nats for a deterministic circuit.

    Raises
    ------
    ValueError
        If fewer than four draws are kept, a tolerance is missing, or the prior is improper.
    """
    problem = as_problem(source)
    distance = behavior_distance(problem.program, tolerance)
    began = time.perf_counter()
    draw_key, noise_key = jax.random.split(rng_key)
    flat = prior_sampler(problem, num_simulations)(draw_key)
    keys = jax.random.split(noise_key, num_simulations)
    found = _distances(problem, distance, keys, flat)
    kept = np.flatnonzero(found <= epsilon)
    if len(kept) < MIN_ACCEPTED:
        raise ValueError(
            f"Of {num_simulations} draws of the prior {len(kept)} are within {epsilon} tolerances "
            f"of the behavior, and the nearest is at {found.min():.3g}; raise `num_simulations` "
            "or `epsilon`."
        )
    # The kept ones once more, with the same keys: sites of all would fill the memory.
    runs = simulate_draws(keys[kept], problem, to_latents(problem.program, flat[kept]))
    seconds = time.perf_counter() - began
    share = len(kept) / num_simulations
    stats = {
        "distance": found[None, kept],
        "log_normalizer": np.log([share]),
        "log_normalizer_se": np.sqrt([(1 - share) / len(kept)]),
    }
    if not problem.program.is_stochastic:
        stats["log_q"] = np.asarray(runs.log_prior)[None] - np.log(share)
    attrs = {
        "inference_method": "rejection ABC",
        "num_simulations": num_simulations,
        "sampling_time": seconds,
        "epsilon": float(epsilon),
    }
    return to_data(problem, by_chain(runs, 1), stats, attrs, coords, dims)


def _distances(problem: Problem, distance: Distance, keys: Array, flat: Array) -> np.ndarray:
    """Simulate draws once each and return their distances to the behavior."""
    program, args, kwargs, _ = problem

    def run(pair: tuple[Array, Array]) -> Array:
        latents, _ = constrain(program, pair[1])
        return distance(
            simulate(pair[0], program.model, latents, program.constraints, args, kwargs).sites
        )

    run_all = jax.jit(lambda pairs: jax.lax.map(run, pairs, batch_size=BATCH_SIZE))
    return np.asarray(run_all((keys, flat)))
