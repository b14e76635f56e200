"""How far a fit is from maximum entropy, from weighted draws that do not depend on it alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.certificate.pareto import pareto_k
from numpyro_dsn.certificate.verdict import infeasible, verdict
from numpyro_dsn.solver.aim import weighted_prior
from numpyro_dsn.solver.history import Epoch
from numpyro_dsn.solver.inputs import Inputs
from numpyro_dsn.solver.measurement import gap_to
from numpyro_dsn.weighted.acceptance import accepted, keep_all
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import log_weights, softmax, validation
from numpyro_dsn.weighted.dual import dual_value, exponent, tilt

COVERED = np.log(10.0)
"""A flow covers a draw if its density, before draws are rejected, is at least a tenth of the
optimum's."""

MIN_PRIOR_ESS = 20.0
"""Fewer effective draws of the prior cannot tell whether a mode was missed."""


class Certificate(NamedTuple):
    r"""What is known about the distance of a fit to the maximum-entropy distribution.

    .. math:: -KL(q \,\|\, p) \;\le\; g(\eta) = \log E_p[e^{\eta^\top T}] - \eta^\top \mu

    natural_parameters
        eta by label, in nats per unit of T.
    dual_bound
        g(eta), the upper bound on minus the KL to the prior, in nats.
    gap, gap_se
        KL divergence of the fit to the optimum, and its standard error, in nats. It is the
        distance to the bound of a fit that meets the constraints, also where an inequality is met
        further than its bound.
    acceptance
        Fraction of the flow's draws that the circuit keeps; the others, or a part of them, the
        optimum does not have.
    flow_gap
        The gap if none of the flow's draws were rejected, in nats.
    stray_fraction, stray_gap
        The thousandth of the draws, at most, that are furthest from the optimum: their fraction,
        and how much of the gap is theirs, in nats.
    ess
        Effective sample size of the draws behind the bound.
    prior_ess
        The same for draws of the prior alone.
    pareto_k
        Shape of the tail of the weights of the fit's own draws. Above 0.7 do not reweight them
        alone; the bound and corrected draws rest on mixtures with the prior and do not need it.
    missed_mass, missed_mass_se
        Fraction of the optimum's mass that the fit does not cover and its standard error, from
        draws of the prior alone; NaN if these cannot tell.
    bounded_mass
        Fraction of the optimum's mass at which a statistic is so far out that it is bounded. The
        natural parameters are those of the statistics as they are only if it is zero.
    verdict
        One sentence.
    """

    natural_parameters: dict[str, float]
    dual_bound: float
    gap: float
    gap_se: float
    acceptance: float
    flow_gap: float
    stray_fraction: float
    stray_gap: float
    ess: float
    prior_ess: float
    pareto_k: float
    missed_mass: float
    missed_mass_se: float
    bounded_mass: float
    verdict: str


class Tolerances(NamedTuple):
    """What a method asks for: of violations in units, and of the gap in nats."""

    violation: float
    gap: float


def certify(
    inputs: Inputs, labels: list[str], measured: Epoch, tolerances: Tolerances
) -> Certificate:
    """Return the certificate of a fit.

    Parameters
    ----------
    inputs
        Draws with their densities, and the natural parameters.
    labels
        One label for each constraint.
    measured
        Measurements of the fit.
    tolerances
        What the method asks for.
    """
    numbers, own = jax.device_get(_estimate(inputs))
    eta = np.asarray(inputs.natural_parameters, float) / np.asarray(inputs.targets.unit, float)
    certificate = Certificate(
        natural_parameters=dict(zip(labels, eta.tolist(), strict=True)),
        pareto_k=pareto_k(own),
        verdict="",
        **{name: float(number) for name, number in numbers.items()},
    )
    unmet = infeasible(inputs.pool, inputs.targets, labels, int(inputs.last))
    return certificate._replace(verdict=verdict(certificate, measured, unmet, tolerances, labels))


@quick_jit
def _estimate(inputs: Inputs) -> tuple[dict[str, Array], Array]:
    """Return the numbers of a certificate, and log weights of the fit's own draws."""
    pool, eta, bounds = inputs.pool, inputs.natural_parameters, inputs.targets.bounds
    used, kept = validation(pool, inputs.last), accepted(pool, inputs.last, inputs.acceptance)
    alone = accepted(pool, inputs.last, keep_all(eta.size)).log_q
    log_q = kept.log_q
    tilted = tilt(eta, weighted_prior(pool, used))
    known = eta, tilted, bounds
    gap, gap_se = gap_to(pool, log_weights(pool, log_q, used), log_q, *known)
    flow_gap, _ = gap_to(pool, log_weights(pool, alone, used), alone, *known)
    everything = tilt(eta, weighted_prior(pool))
    # But for rounding: bounded statistics are at their limit.
    limit = (1 - 1e-5) * inputs.targets.limit
    at_limit = jnp.abs(pool.draws.statistics) >= limit[None, None]
    weights = jnp.exp(everything.log_weights).reshape(at_limit.shape[:2])
    own = jax.tree.map(lambda leaf: leaf[inputs.last], pool.draws)
    log_optimum = own.log_prior + exponent(eta, own.statistics, own.noise) - tilted.log_normalizer
    log_own = jnp.where(own.finite, log_optimum - log_q[inputs.last], -jnp.inf)
    ratio = jnp.sort(jnp.where(own.finite, -log_own, 0.0))[::-1]
    num_strays = max(ratio.size // 1000, 1)
    numbers = {
        "dual_bound": dual_value(eta, tilted.log_normalizer, bounds),
        "gap": gap,
        "gap_se": jnp.sqrt(gap_se**2 + kept.rate_variance),
        "acceptance": kept.rate,
        "flow_gap": flow_gap,
        "stray_fraction": jnp.mean(ratio[:num_strays] > 3.0) * num_strays / ratio.size,
        "stray_gap": jnp.sum(jnp.where(ratio > 3.0, ratio, 0.0)[:num_strays]) / ratio.size,
        "ess": tilted.ess,
        "bounded_mass": jnp.sum(weights * jnp.any(at_limit, axis=-1)),
        **_missed(inputs, tilted.log_normalizer),
    }
    return numbers, log_own


def _missed(inputs: Inputs, log_normalizer: Array) -> dict[str, Array]:
    """Return how much of the optimum the fit does not cover, from draws of the prior alone."""
    first = jax.tree.map(lambda leaf: leaf[0], inputs.pool.draws)
    exponents = exponent(inputs.natural_parameters, first.statistics, first.noise)
    usable = first.finite & inputs.from_prior
    weights = softmax(jnp.where(usable, exponents + inputs.pool.log_share[0], -jnp.inf))
    weights = jnp.where(usable, weights, 0.0)
    ess = jnp.where(inputs.from_prior, 1 / jnp.sum(weights**2), 0.0)
    log_optimum = first.log_prior + exponents - log_normalizer
    missed = (inputs.pool.log_q[inputs.last, 0] < log_optimum - COVERED).astype(weights.dtype)
    mass = weights @ missed
    error = jnp.sqrt(weights**2 @ (missed - mass) ** 2)
    can_tell = ess >= MIN_PRIOR_ESS
    return {
        "prior_ess": ess,
        "missed_mass": jnp.where(can_tell, mass, jnp.nan),
        "missed_mass_se": jnp.where(can_tell, error, jnp.nan),
    }
