"""NUTS on the tilted model, in its own coordinates or in those of a fitted flow."""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer import MCMC, NUTS

from numpyro_dsn.baselines._problem import Problem, as_tilted_problem
from numpyro_dsn.baselines.densities import tilted_density, to_latents
from numpyro_dsn.baselines.output import by_chain, simulate_draws, to_data
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.program import constrain
from numpyro_dsn.result import DSNResult

ToFlat = Callable[[Array], tuple[Array, Array]]

STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "acceptance_rate": "accept_prob",
    "n_steps": "num_steps",
}
"""ArviZ's names of what NumPyro records."""


class Chains(NamedTuple):
    """What NumPyro returns.

    positions
        Shape ``(num_chains * num_samples, D)``.
    fields
        What it records, by its own names, each of shape ``(num_chains, num_samples)``.
    num_steps
        Leapfrog steps of all chains, those of the warmup included.
    """

    positions: Array
    fields: dict[str, Array]
    num_steps: int


def nuts(
    rng_key: Array,
    source: Problem | DSNResult,
    *,
    neutra: bool = False,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    num_replicates: int = 16,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> Any:
    r"""Sample the tilted model with the No-U-Turn sampler.

    .. math:: q^*(z) \propto p(z) \exp(\eta^\top \bar T(z))

    With ``neutra`` the chains move in normal noise that the fitted flow maps to z. As far as the
    flow is right, the density of the noise is normal, and modes of z are neighbors.

    Parameters
    ----------
    rng_key
        Key of the chains and of the noise.
    source
        A fit, or a problem with natural parameters.
    neutra
        Whether to sample in the coordinates of the flow; needs a fit.
    num_warmup, num_samples
        Number of steps of each chain to adapt, and to keep.
    num_chains
        Number of chains, run together.
    num_replicates
        Number of fixed keys over which a stochastic simulator is averaged.
    coords, dims
        Coordinate values by dimension, and dimension names by site, as in
        ``DSNResult.to_inference_data``.

    Returns
    -------
    ``InferenceData`` or ``xarray.DataTree``; ``sample_stats`` has ``diverging``, ``energy``,
    ``n_steps``, ``acceptance_rate`` and ``lp``, the log density of the tilted model without its
    normalizer, in nats.

    Raises
    ------
    ValueError
        If the natural parameters are unknown, ``neutra`` is asked without a fit or of a guide
        that maps no noise to latents, or there is no step to adapt.

    References
    ----------
    M. D. Hoffman and A. Gelman, *The No-U-Turn Sampler*, JMLR 15, 2014; M. D. Hoffman et al.,
    *NeuTra-lizing bad geometry in Hamiltonian Monte Carlo using neural transport*,
    arXiv:1903.03704, 2019.
    """
    if num_warmup < 1:
        raise ValueError(f"`num_warmup` must be at least 1, but is {num_warmup}.")
    start_key, chain_key, noise_key = jax.random.split(rng_key, 3)
    problem = as_tilted_problem(source)
    program, shape = problem.program, (num_chains, problem.program.num_latents)
    began = time.perf_counter()
    to_flat = _through_flow(source) if neutra else _as_it_is
    if neutra:
        start = jax.random.normal(start_key, shape)
    else:  # where NumPyro starts too
        start = jax.random.uniform(start_key, shape, minval=-2.0, maxval=2.0)
    density = tilted_density(problem, num_replicates)

    def potential(position: Array) -> Array:
        flat, log_det = to_flat(position)
        latents, log_det_support = constrain(program, flat)
        return -density(latents) - log_det - log_det_support

    chains = _run(chain_key, potential, start, num_warmup, num_samples)
    flat, _ = jax.jit(jax.vmap(to_flat))(chains.positions)
    latents = to_latents(program, flat)
    log_tilted = jax.jit(jax.vmap(density))(latents)
    runs = simulate_draws(jax.random.split(noise_key, len(flat)), problem, latents)
    seconds = time.perf_counter() - began

    stats = {name: np.asarray(chains.fields[field]) for name, field in STATS.items()}
    stats["lp"] = by_chain(log_tilted, num_chains)
    replicates = num_replicates if program.is_stochastic else 1
    attrs = {
        "inference_method": "NeuTra" if neutra else "NUTS",
        "num_simulations": chains.num_steps * replicates + len(flat),
        "sampling_time": seconds,
        "num_warmup": num_warmup,
        "natural_parameters": json.dumps(np.asarray(problem.natural_parameters).tolist()),
    }
    return to_data(problem, by_chain(runs, num_chains), stats, attrs, coords, dims)


def _run(
    rng_key: Array,
    potential: Callable[[Array], Array],
    start: Array,
    num_warmup: int,
    num_samples: int,
) -> Chains:
    """Run chains from several starts, together."""
    mcmc = MCMC(
        NUTS(potential_fn=potential),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=len(start),
        chain_method="vectorized",
        progress_bar=False,
    )
    extra = tuple(STATS.values())
    # Warmup is collected because its simulations have to be paid too.
    mcmc.warmup(rng_key, init_params=start, extra_fields=extra, collect_warmup=True)
    num_steps = int(np.sum(mcmc.get_extra_fields()["num_steps"]))
    mcmc.run(rng_key, extra_fields=extra)
    fields = mcmc.get_extra_fields(group_by_chain=True)
    num_steps += int(np.sum(fields["num_steps"]))
    positions = mcmc.get_samples(group_by_chain=True)
    return Chains(positions.reshape(-1, start.shape[-1]), fields, num_steps)


def _as_it_is(position: Array) -> tuple[Array, Array]:
    return position, jnp.zeros(())


def _through_flow(source: Problem | DSNResult) -> ToFlat:
    """Return the map from normal noise through a fitted flow, and its log determinant."""
    if not isinstance(source, DSNResult):
        raise ValueError(
            "`neutra` samples in the coordinates of a fitted flow, but a problem has none; pass "
            "the `DSNResult`."
        )
    flow, params = source.fit.flow, source.flow_params

    def to_flat(noise: Array) -> tuple[Array, Array]:
        flat, log_det = flow.from_normal(params, noise[None])
        return flat[0], log_det[0]

    return to_flat
