"""From a fit to ArviZ data."""

import json
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.inference_data.container import to_container
from numpyro_dsn.inference_data.measurements import measurement_groups
from numpyro_dsn.inference_data.sites import Coords, Dims, sites_groups

if TYPE_CHECKING:
    from numpyro_dsn.programs import FitDraws
    from numpyro_dsn.result import DSNResult


def from_result(
    result: "DSNResult", rng_key: Array, num_samples: int, coords: Coords, dims: Dims
) -> Any:
    """Convert a fit to ``InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).

    Parameters
    ----------
    result
        The fit.
    rng_key
        Key of the draws.
    num_samples
        Number of draws from every chain and from the prior.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    Groups ``posterior`` (latents and statistics), ``posterior_predictive`` (all sites that are no
    latents), ``prior`` and ``prior_predictive`` if the prior can be sampled, ``sample_stats``,
    ``constant_data`` (bounds on E[T]), ``behavior`` (what was achieved) and ``optimization``.
    """
    program, num_chains = result.fit.program, len(result.epochs)
    keys = [jax.random.fold_in(rng_key, chain) for chain in range(num_chains)]
    chains = [result.draw_chain(key, chain, num_samples) for chain, key in enumerate(keys)]
    draws = jax.tree.map(lambda *leaves: np.stack(leaves), *chains)
    sites = draws.sites
    groups = sites_groups(program, sites, "posterior", coords, dims)
    groups["sample_stats"] = _sample_stats(result, draws)
    if program.is_proper:
        prior_key = jax.random.fold_in(rng_key, num_chains)
        prior = result.draw_prior(prior_key, num_samples)
        prior = jax.tree.map(lambda leaf: np.asarray(leaf)[None], prior)
        groups |= sites_groups(program, prior, "prior", coords, dims)
    return to_container(groups | measurement_groups(result), _attributes(result))


def _attributes(result: "DSNResult") -> dict[str, Any]:
    """Return numbers and strings about the fit; files hold no lists, so these become JSON."""
    program = result.fit.program
    attrs = {
        "inference_method": "DSN",
        "status": result.status.name,
        "held_chain": result.chain,
        "held_epoch": int(result.epochs[result.chain]),
        "latents": json.dumps(sorted(program.latents)),
        "behaviors": json.dumps(sorted(program.constraints)),
        "num_simulations": float(result.history.epochs.num_simulations.sum()),
        "sampling_time": float(result.history.seconds.sum()),
    }
    if np.isnan(result.measured.gap):  # no draws were kept: a certificate would have to simulate
        return attrs
    certificate = result.certificate._asdict()
    eta = certificate.pop("natural_parameters")
    return attrs | certificate | {"natural_parameters": json.dumps(eta)}


def _sample_stats(result: "DSNResult", draws: "FitDraws") -> Any:
    """Return log densities; ``lp`` is that of the prior tilted by the multipliers."""
    import xarray

    constraints = result.fit.program.constraints
    sites, log_q, log_prior = draws

    @jax.jit
    @jax.vmap
    @jax.vmap
    def statistics(values: dict[str, Array]) -> Array:
        return jnp.concatenate([constraints[n].statistics(values[n]) for n in constraints])

    tilt = np.asarray(statistics({name: sites[name] for name in constraints}))
    epochs = result.history.epochs
    multipliers = epochs.multipliers[result.epochs, np.arange(len(result.epochs))]
    lp = log_prior - np.einsum("cdm,cm->cd", tilt, multipliers)
    variables = {"lp": lp, "log_q": log_q, "log_prior": log_prior, "log_weight": lp - log_q}
    num_chains, num_draws = log_q.shape
    return xarray.Dataset(
        {name: (["chain", "draw"], value) for name, value in variables.items()},
        coords={"chain": np.arange(num_chains), "draw": np.arange(num_draws)},
    )
