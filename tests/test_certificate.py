"""The certificate on problems with a known optimum, and what it must not certify."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from plain_flow import plain_flow

from numpyro_dsn.certificate import _verdict, certify, collect
from numpyro_dsn.pool import Draws

HALF_WIDTH = 4.0
LOG_PRIOR = -np.log(2 * HALF_WIDTH)
NUM_DRAWS = 20_000


def simulate(rng_key, flat):
    """Two modes at -2 and 2: the statistic is the squared distance to the nearer one."""
    inside = jnp.abs(flat[:, 0]) < HALF_WIDTH
    statistics = (jnp.abs(flat) - 2.0) ** 2
    zeros = jnp.zeros(flat.shape[0])
    return Draws(
        flat, statistics, jnp.zeros_like(statistics)[:, None], zeros + LOG_PRIOR, zeros, inside
    )


def log_prob(params, flat):
    log_modes = norm.logpdf(flat, params["loc"][None], params["scale"])
    return logsumexp(log_modes + jnp.log(params["mass"])[None], axis=1)


def sample(rng_key, params, num_draws):
    mode_key, key = jax.random.split(rng_key)
    mode = jax.random.categorical(mode_key, jnp.log(params["mass"]), shape=(num_draws,))
    return (params["loc"][mode] + params["scale"] * jax.random.normal(key, (num_draws,)))[:, None]


def prior(rng_key, num_draws):
    return jax.random.uniform(rng_key, (num_draws, 1), minval=-HALF_WIDTH, maxval=HALF_WIDTH)


def fit(mass, scale):
    return {"loc": jnp.array([-2.0, 2.0]), "scale": jnp.array(scale), "mass": jnp.array(mass)}


STD = 0.3
"""The optimum is, but for cut tails of 1e-10, a normal of this width at each mode."""


def certificate_of(params, from_prior=True, seed=0):
    flow = plain_flow(sample, log_prob, simulate)
    bound = jnp.array([STD**2])
    sampler = prior if from_prior else None
    evidence = collect(jax.random.key(seed), flow, sampler, params, bound, bound, NUM_DRAWS)
    violation = (params["scale"] ** 2 - STD**2) / (np.sqrt(2) * params["scale"] ** 2)
    measured = SimpleNamespace(violation=np.array([violation]))
    return certify(evidence, ["f"], measured, pareto_k=0.0)


def exact_entropy():
    return 0.5 * np.log(2 * np.pi * np.e * STD**2) + np.log(2.0)


def test_the_optimum_is_certified():
    certificate = certificate_of(fit([0.5, 0.5], STD))
    assert certificate.verdict.startswith("Close to maximum entropy")
    assert abs(certificate.gap) < 4 * certificate.gap_se
    eta = certificate.natural_parameters["f"]
    assert abs(eta + 1 / (2 * STD**2)) < 0.03 / (2 * STD**2)
    assert abs(certificate.dual_bound - (exact_entropy() + LOG_PRIOR)) < 4 * certificate.gap_se
    assert certificate.missed_mass < 1e-3


def test_a_lost_mode_is_seen():
    """The fit meets the constraint exactly and is ln 2 short."""
    certificate = certificate_of(fit([1.0 - 1e-9, 1e-9], STD))
    assert certificate.verdict.startswith("Mass is missing")
    assert abs(certificate.missed_mass - 0.5) < 4 * certificate.missed_mass_se
    assert abs(certificate.gap - np.log(2.0)) < 4 * certificate.gap_se + 0.01


def test_a_fit_that_violates_its_constraint_is_not_certified():
    certificate = certificate_of(fit([0.5, 0.5], 0.5 * STD))
    assert certificate.verdict.startswith("The constraints are not met")


def test_a_small_violation_is_named():
    certificate = certificate_of(fit([0.5, 0.5], STD / np.sqrt(1 - np.sqrt(2) * 0.05)))
    assert certificate.verdict.startswith("Close to maximum entropy")
    assert "off by 0.05 standard deviations" in certificate.verdict


@pytest.mark.parametrize(
    ("gap", "error", "verdict"),
    [
        (0.04, 0.02, "Close"),
        (0.08, 0.02, "Perhaps not"),
        (0.08, 0.01, "Not"),
        (0.04, 0.06, "Cannot"),
    ],
)
def test_verdict_by_gap_and_its_error(gap, error, verdict):
    certificate = certificate_of(fit([0.5, 0.5], STD))._replace(gap=gap, gap_se=error)
    measured = SimpleNamespace(violation=np.zeros(1))
    assert _verdict(certificate, measured, None).startswith(verdict)


def test_without_prior_draws_it_cannot_tell():
    certificate = certificate_of(fit([0.5, 0.5], STD), from_prior=False)
    assert np.isnan(certificate.missed_mass)
    assert "cannot be told" in certificate.verdict


@pytest.mark.parametrize("mass", [0.5, 0.3, 0.1, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_gap_covers_the_true_distance(mass, seed):
    """Uneven modes meet the constraint; their distance to the optimum is ln 2 - H(mass)."""
    certificate = certificate_of(fit([mass, 1 - mass], STD), seed=seed)
    entropy = -mass * np.log(mass) - (1 - mass) * np.log(1 - mass)
    distance = np.log(2.0) - entropy
    assert abs(certificate.gap - distance) < 4 * certificate.gap_se
    assert certificate.verdict.startswith("Close") == (distance < 0.05)
