"""NUTS on the tilted model, in its own coordinates or in those of a fitted flow."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.distributions import MixtureSameFamily
from numpyro.distributions.transforms import ComposeTransform
from numpyro.infer import MCMC, NUTS

from numpyro_dsn.baselines._problem import Problem, as_tilted_problem
from numpyro_dsn.baselines.mixture import normal_to_mixture
from numpyro_dsn.baselines.output import simulate_draws, to_data
from numpyro_dsn.baselines.space import ToLatents, tilted_density, unconstrained_space
from numpyro_dsn.guides import constrain, unconstrained_posterior
from numpyro_dsn.guides.rejection import RejectionFlow, press_inside
from numpyro_dsn.inference_data import Coords, Dims
from numpyro_dsn.result import DSNResult

STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "acceptance_rate": "accept_prob",
    "n_steps": "num_steps",
}
"""ArviZ's names of what NumPyro records."""


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
    flow is right, the density of the noise is normal, and modes of z are neighbors. What a
    truncated flow rejects is pressed into the last percent of the box.

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
        If the natural parameters are unknown, ``neutra`` is asked without a fit, or there is no
        step to adapt.

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
    began = time.perf_counter()
    if neutra:
        dim, to_latents = _flow_space(source)
        start = jax.random.normal(start_key, (num_chains, dim))
    else:
        dim, to_latents, _ = unconstrained_space(problem.program)
        # Where NumPyro starts too.
        start = jax.random.uniform(start_key, (num_chains, dim), minval=-2.0, maxval=2.0)
    density = tilted_density(problem, num_replicates)

    def potential(position: Array) -> Array:
        latents, log_det = to_latents(position)
        return -density(latents) - log_det

    mcmc = MCMC(
        NUTS(potential_fn=potential),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    # Warmup is collected because its simulations have to be paid too.
    mcmc.warmup(
        chain_key, init_params=start, extra_fields=tuple(STATS.values()), collect_warmup=True
    )
    num_steps = int(np.sum(mcmc.get_extra_fields()["num_steps"]))
    mcmc.run(chain_key, extra_fields=tuple(STATS.values()))
    fields = mcmc.get_extra_fields(group_by_chain=True)
    num_steps += int(np.sum(fields["num_steps"]))
    positions = mcmc.get_samples(group_by_chain=True).reshape(num_chains * num_samples, -1)
    latents, _ = jax.jit(jax.vmap(to_latents))(positions)
    log_tilted = jax.jit(jax.vmap(density))(latents)
    runs = simulate_draws(jax.random.split(noise_key, len(positions)), problem, latents)
    seconds = time.perf_counter() - began

    def by_chain(leaf: Array) -> np.ndarray:
        return np.asarray(leaf).reshape(num_chains, num_samples, *leaf.shape[1:])

    stats = {name: np.asarray(fields[field]) for name, field in STATS.items()}
    stats["lp"] = by_chain(log_tilted)
    replicates = num_replicates if problem.program.is_stochastic else 1
    attrs = {
        "inference_method": "NeuTra" if neutra else "NUTS",
        "num_simulations": num_steps * replicates + len(positions),
        "sampling_time": seconds,
        "num_warmup": num_warmup,
        "natural_parameters": json.dumps(np.asarray(problem.natural_parameters).tolist()),
    }
    return to_data(problem, jax.tree.map(by_chain, runs), stats, attrs, coords, dims)


def _flow_space(source: Problem | DSNResult) -> tuple[int, ToLatents]:
    """Return the map from normal noise through a fitted flow to the latents."""
    fit, params = _require_fit(source).fit, _held_params(_require_fit(source))
    posterior = unconstrained_posterior(fit.guide, params)
    bounded = (False,) * fit.guide.latent_dim
    if isinstance(posterior, RejectionFlow):
        base, transform = posterior.flow.base_dist, ComposeTransform(posterior.flow.transforms)
        bounded = posterior.bounded
    else:
        try:
            transform = fit.guide.get_transform(params)
        except (NotImplementedError, TypeError, AssertionError) as error:
            raise ValueError(
                f"`neutra` needs a guide with a transform, but {type(fit.guide).__name__} has "
                "none; fit with `AutoRealNVP`."
            ) from error
        base = handlers.substitute(fit.guide.get_base_dist, data=params)()
    # In the coordinates of a mixture itself a chain would stay in the component it started in.
    is_mixture = isinstance(base, MixtureSameFamily)

    def to_latents(noise: Array) -> tuple[dict[str, Array], Array]:
        position, log_det = normal_to_mixture(base, noise) if is_mixture else (noise, jnp.zeros(()))
        x = transform(position)
        log_det_flow = jnp.sum(transform.log_abs_det_jacobian(position, x))
        flat, log_det_box = press_inside(x, bounded)
        latents, log_det_support = constrain(fit.guide, flat)
        return latents, log_det + log_det_flow + log_det_box + log_det_support

    return fit.guide.latent_dim, to_latents


def _require_fit(source: Problem | DSNResult) -> DSNResult:
    if not isinstance(source, DSNResult):
        raise ValueError(
            "`neutra` samples in the coordinates of a fitted flow, but a problem has none; pass "
            "the `DSNResult`."
        )
    return source


def _held_params(result: DSNResult) -> dict[str, Array]:
    return jax.tree.map(lambda leaf: leaf[result.chain], result.params)
