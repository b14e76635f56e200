"""Draws of an engine that is not ours, as the same ArviZ data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.baselines._problem import Problem, as_problem
from numpyro_dsn.baselines.output import by_chain, simulate_draws, to_data
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.program import require_latents
from numpyro_dsn.result import DSNResult


def from_draws(
    rng_key: Array,
    source: Problem | DSNResult,
    values: dict[str, ArrayLike],
    inference_method: str,
    *,
    num_simulations: float = np.nan,
    sampling_time: float = np.nan,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> Any:
    """Simulate draws of another engine once each, and return them with the layout of a fit.

    Parameters
    ----------
    rng_key
        Key of the noise.
    source
        A fit or a problem.
    values
        Value of every latent site, with leading axes ``(num_chains, num_draws)``.
    inference_method
        Name of the engine.
    num_simulations, sampling_time
        What the draws cost, in simulations and in seconds.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    ``InferenceData`` or ``xarray.DataTree``.

    Raises
    ------
    ValueError
        If a latent site is missing, or its axes are not chains, draws and its own.
    """
    problem = as_problem(source)
    given = {name: jnp.asarray(value) for name, value in values.items()}
    latents, shape = require_latents(problem.program, given)
    if len(shape) != 2:
        raise ValueError(
            f"The values have leading axes {shape}; give two, chains and draws, for instance "
            "`value[None]` for a single chain."
        )
    runs = simulate_draws(jax.random.split(rng_key, int(np.prod(shape))), problem, latents)
    attrs = {
        "inference_method": inference_method,
        "num_simulations": num_simulations,
        "sampling_time": sampling_time,
    }
    return to_data(problem, by_chain(runs, shape[0]), {}, attrs, coords, dims)
