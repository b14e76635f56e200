"""Rejection from the prior: the floor under every other engine."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.baselines._problem import Problem, as_problem
from numpyro_dsn.baselines.distance import behavior_distance
from numpyro_dsn.baselines.output import BATCH_SIZE, simulate_draws, to_data
from numpyro_dsn.baselines.space import prior_sampler, unconstrained_space
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.program import simulate
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
    program, args, kwargs, _ = problem
    distance = behavior_distance(program, tolerance)
    began = time.perf_counter()
    space = unconstrained_space(program)
    draw_key, noise_key = jax.random.split(rng_key)
    flat = prior_sampler(problem, space, num_simulations)(draw_key)
    keys = jax.random.split(noise_key, num_simulations)

    @jax.jit
    def distances(keys: Array, flat: Array) -> Array:
        def run(pair: tuple[Array, Array]) -> Array:
            latents, _ = space.to_latents(pair[1])
            sites = simulate(
                pair[0], program.model, latents, program.constraints, args, kwargs
            ).sites
            return distance(sites)

        return jax.lax.map(run, (keys, flat), batch_size=BATCH_SIZE)

    found = np.asarray(distances(keys, flat))
    kept = np.flatnonzero(found <= epsilon)
    if len(kept) < MIN_ACCEPTED:
        raise ValueError(
            f"Of {num_simulations} draws of the prior {len(kept)} are within {epsilon} tolerances "
            f"of the behavior, and the nearest is at {found.min():.3g}; raise `num_simulations` "
            "or `epsilon`."
        )
    # The kept ones once more, with the same keys: sites of all would fill the memory.
    latents, _ = jax.jit(jax.vmap(space.to_latents))(flat[kept])
    runs = simulate_draws(keys[kept], problem, latents)
    seconds = time.perf_counter() - began
    stats = {"distance": found[None, kept]}
    share = len(kept) / num_simulations
    stats["log_normalizer"] = np.log([share])
    stats["log_normalizer_se"] = np.sqrt([(1 - share) / len(kept)])
    if not program.is_stochastic:
        stats["log_q"] = np.asarray(runs.log_prior)[None] - np.log(share)
    attrs = {
        "inference_method": "rejection ABC",
        "num_simulations": num_simulations,
        "sampling_time": seconds,
        "epsilon": float(epsilon),
    }
    by_chain = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], runs)
    return to_data(problem, by_chain, stats, attrs, coords, dims)
