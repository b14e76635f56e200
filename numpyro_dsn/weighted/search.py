"""Search of the prior: draws by the batch, until the tilted density is known."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import Draws
from numpyro_dsn.weighted.dual import Weighted, solve_dual, tilt
from numpyro_dsn.weighted.resampling import subsample
from numpyro_dsn.weighted.targets import Targets


class PriorDraws(NamedTuple):
    """Draws of the prior that are kept, in units of the targets.

    draws
        The draws.
    log_share
        Log of the number of draws that each one stands for, shape ``(num_kept,)``.
    num_simulated, num_nonfinite
        Number of all draws, and of those whose statistics were not finite, each of shape ``()``.
    """

    draws: Draws
    log_share: Array
    num_simulated: Array
    num_nonfinite: Array


class Found(NamedTuple):
    """How much is known of the tilted density: eta, and its effective draws, shape ``()``."""

    natural_parameters: Array
    solved: Array
    ess: Array


def unweighted(draws: Draws) -> PriorDraws:
    """Return draws that stand for themselves alone."""
    size = draws.finite.size
    nonfinite = (~draws.finite).sum()
    return PriorDraws(draws, jnp.zeros(size), jnp.asarray(size, float), nonfinite)


def search_prior(
    rng_key: Array,
    simulate: Callable[[Array], Draws],
    first: Draws,
    targets: Targets,
    min_ess: float,
    max_batches: int,
) -> PriorDraws:
    """Simulate draws of the prior until enough of them know the tilted density.

    After each batch the draws that matter are kept, as many as a batch has: half by their weight
    under the tilted density, half evenly (Horvitz-Thompson).

    Parameters
    ----------
    rng_key
        Key of all draws.
    simulate
        Function of a key that returns a batch of draws in units of the targets.
    first
        The first batch.
    targets
        Targets with their units.
    min_ess
        Effective draws of the tilted density to look for.
    max_batches
        Largest number of batches, the first one counted.

    Returns
    -------
    The draws that are kept.
    """
    kept = quick_jit(unweighted)(first)
    found = _look(kept, jnp.zeros_like(targets.unit), targets, min_ess)
    for index in range(1, max_batches):
        if not np.any(np.asarray(kept.draws.finite)) or (
            found.solved and float(found.ess) >= min_ess
        ):
            break
        draw_key, choice_key = jax.random.split(jax.random.fold_in(rng_key, index))
        new = simulate(draw_key)
        kept, found = _merge(choice_key, kept, new, found.natural_parameters, targets, min_ess)
    return kept


def _log_base(kept: PriorDraws) -> Array:
    log_base = jnp.where(kept.draws.finite, kept.log_share, -jnp.inf)
    total = logsumexp(log_base)
    return jnp.where(jnp.isfinite(total), log_base - total, log_base)


def _solve(kept: PriorDraws, start: Array, targets: Targets, min_ess: float) -> Found:
    """Solve the dual on the draws."""
    draws = Weighted(_log_base(kept), kept.draws.statistics, kept.draws.noise)
    eta, solved = solve_dual(start, draws, targets.bounds, min_ess)
    return Found(eta, solved, tilt(eta, draws).ess)


_look = quick_jit(_solve, static_argnames="min_ess")


@partial(quick_jit, static_argnames="min_ess")
def _merge(
    rng_key: Array, kept: PriorDraws, new: Draws, start: Array, targets: Targets, min_ess: float
) -> tuple[PriorDraws, Found]:
    """Return the draws to keep of those kept so far and a new batch."""
    both = PriorDraws(
        draws=jax.tree.map(lambda *leaves: jnp.concatenate(leaves), new, kept.draws),
        log_share=jnp.concatenate([jnp.zeros(new.finite.size), kept.log_share]),
        num_simulated=kept.num_simulated + new.finite.size,
        num_nonfinite=kept.num_nonfinite + (~new.finite).sum(),
    )
    found = _solve(both, start, targets, min_ess)
    log_base = _log_base(both)
    weighted = Weighted(log_base, both.draws.statistics, both.draws.noise)
    weights = jnp.exp(tilt(found.natural_parameters, weighted).log_weights)
    score = jnp.where(both.draws.finite, 0.5 * (weights + jnp.exp(log_base)), 0.0)
    chosen, chance = subsample(rng_key, score, new.finite.size)
    kept = both._replace(
        draws=jax.tree.map(lambda leaf: leaf[chosen], both.draws),
        log_share=both.log_share[chosen] - jnp.log(chance),
    )
    return kept, found
