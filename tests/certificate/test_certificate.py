"""The certificate on problems with a known optimum, and what it must not certify."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from weighted_draws import draws_of, pool_of, prior_of, solve_compiled, targets_of

from numpyro_dsn.certificate import Tolerances, certify
from numpyro_dsn.solver.inputs import Inputs
from numpyro_dsn.weighted.acceptance import keep_all
from numpyro_dsn.weighted.targets import in_units

HALF_WIDTH = 4.0
LOG_PRIOR = -np.log(2 * HALF_WIDTH)
NUM_DRAWS = 20_000
STD = 0.3
"""The optimum is, but for cut tails of 1e-10, a normal of this width at each mode."""
OPTIMUM = 0.5 * np.log(2 * np.pi * np.e * STD**2) + np.log(2.0) + LOG_PRIOR
"""Minus its divergence from the prior."""
TOLERANCES = Tolerances(violation=0.02, gap=0.05)


def simulated(flat, limit):
    """Two modes at -2 and 2: the statistic is the squared distance to the nearer one."""
    raw = draws_of(
        flat,
        statistics=(jnp.abs(flat) - 2.0) ** 2,
        log_prior=LOG_PRIOR,
        finite=jnp.abs(flat[:, 0]) < HALF_WIDTH,
    )
    targets = asked(limit)
    return in_units(raw, targets)


def asked(limit=jnp.inf):
    return targets_of(STD**2, unit=STD**2, limit=limit)


class Modes:
    """Normal distributions at the modes and, with a third mass, between them."""

    def __init__(self, mass, scale, width=0.05):
        self.mass = jnp.array([*mass, 1 - sum(mass)])
        self.loc, self.scale = jnp.array([-2.0, 2.0, 0.0]), jnp.array([scale, scale, width])

    def log_prob(self, flat):
        log_modes = norm.logpdf(flat, self.loc[None], self.scale[None])
        return logsumexp(log_modes + jnp.log(jnp.maximum(self.mass, 1e-30))[None], axis=1)

    def sample(self, rng_key):
        mode_key, key = jax.random.split(rng_key)
        log_mass = jnp.log(jnp.maximum(self.mass, 1e-30))
        mode = jax.random.categorical(mode_key, log_mass, shape=(NUM_DRAWS,))
        return (self.loc[mode] + self.scale[mode] * jax.random.normal(key, mode.shape))[:, None]

    @property
    def violation(self):
        """In units of what was asked, of the two modes."""
        return np.array([float(self.scale[0]) ** 2 / STD**2 - 1])


def inputs_of(fit, seed=0, limit=jnp.inf, eta=None, from_prior=True):
    keys = jax.random.split(jax.random.key(seed))
    shape = NUM_DRAWS, 1
    prior = jax.random.uniform(keys[0], shape, minval=-HALF_WIDTH, maxval=HALF_WIDTH)
    blocks = [simulated(flat, limit) for flat in (prior, fit.sample(keys[1]))]
    pool = pool_of(blocks, [lambda flat: jnp.full(len(flat), LOG_PRIOR), fit.log_prob])
    targets = asked(limit)
    if eta is None:
        eta, solved = solve_compiled(jnp.zeros(1), prior_of(pool), targets.bounds, 100.0)
        assert solved
    is_prior = jnp.array(from_prior)
    return Inputs(pool, jnp.array(1), jnp.asarray(eta), targets, is_prior, keep_all(1))


def certificate_of(fit, tolerances=TOLERANCES, **settings):
    measured = SimpleNamespace(violation=fit.violation)
    return certify(inputs_of(fit, **settings), ["f"], measured, tolerances)


def distance(fit):
    """Divergence of the two modes from the optimum, in nats."""
    (mass, other, _), ratio = np.asarray(fit.mass, float), float(fit.scale[0]) / STD
    entropy = -mass * np.log(mass) - other * np.log(other)
    return np.log(2.0) - entropy + 0.5 * ratio**2 - 0.5 - np.log(ratio)


@pytest.fixture(scope="module")
def exact():
    return certificate_of(Modes([0.5, 0.5], STD))


def test_the_optimum_is_certified(exact):
    assert exact.verdict.startswith("Close to maximum entropy")
    assert "covers all but" in exact.verdict
    assert abs(exact.gap) < 4 * exact.gap_se
    assert exact.gap_se < 0.02
    eta = exact.natural_parameters["f"]  # in nats per unit of T, whatever was asked
    assert abs(eta + 1 / (2 * STD**2)) < 0.03 / (2 * STD**2)
    assert abs(exact.dual_bound - OPTIMUM) < 4 * exact.gap_se
    assert exact.missed_mass < 1e-3
    assert exact.bounded_mass == 0
    assert exact.pareto_k < 0.5
    assert 0.5 * NUM_DRAWS < exact.ess <= 2 * NUM_DRAWS


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.1, 1.6])
def test_the_bound_is_above_the_entropy_of_all_that_is_feasible(factor):
    """At any natural parameters, and tight at those of the optimum alone."""
    certificate = certificate_of(Modes([0.5, 0.5], STD), eta=[-0.5 * factor])
    # g(eta) = -log(factor) / 2 + (factor - 1) / 2 above the optimum.
    above = 0.5 * (factor - 1 - np.log(factor))
    assert abs(certificate.dual_bound - OPTIMUM - above) < 4 * certificate.gap_se
    assert certificate.dual_bound > OPTIMUM - 4 * certificate.gap_se


def test_a_lost_mode_is_seen():
    """The fit meets the constraint exactly and is ln 2 short."""
    certificate = certificate_of(Modes([1.0 - 1e-9, 1e-9], STD))
    assert certificate.verdict.startswith("Mass is missing")
    assert abs(certificate.missed_mass - 0.5) < 4 * certificate.missed_mass_se
    assert abs(certificate.gap - np.log(2.0)) < 4 * certificate.gap_se + 0.01


def test_a_fit_that_violates_its_constraint_is_not_certified():
    certificate = certificate_of(Modes([0.5, 0.5], 0.5 * STD))
    assert certificate.verdict.startswith("The constraints are not met: f is off by 0.75 of")


def test_a_small_violation_is_named():
    certificate = certificate_of(Modes([0.5, 0.5], STD * np.sqrt(1.05)))
    assert certificate.verdict.startswith("Close to maximum entropy")
    assert "f is off by 0.05 of the unit that was asked" in certificate.verdict


def test_without_prior_draws_it_cannot_tell():
    certificate = certificate_of(Modes([0.5, 0.5], STD), from_prior=False)
    assert np.isnan(certificate.missed_mass)
    assert "cannot be told" in certificate.verdict


@pytest.mark.parametrize("mass", [0.5, 0.3, 0.1, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_the_gap_is_the_distance_of_uneven_modes(mass, seed):
    """They meet the constraint; their distance to the optimum is ln 2 - H(mass)."""
    fit = Modes([mass, 1 - mass], STD)
    certificate = certificate_of(fit, seed=seed)
    assert abs(certificate.gap - distance(fit)) < 4 * certificate.gap_se
    assert certificate.verdict.startswith("Close") == (distance(fit) < 0.05)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3])
def test_the_gap_is_the_distance_where_the_constraint_is_violated(scale):
    """The distance to the bound is not: of a fit that is too wide it is even negative."""
    fit = Modes([0.5, 0.5], scale * STD)
    certificate = certificate_of(fit)
    assert abs(certificate.gap - distance(fit)) < 4 * certificate.gap_se
    assert certificate.gap > 4 * certificate.gap_se


def test_strays_are_named():
    """One draw in a thousand is where the optimum has no density."""
    fit = Modes([0.4995, 0.4995], STD)
    certificate = certificate_of(fit, Tolerances(violation=0.02, gap=0.004))
    between = jnp.zeros((1, 1))
    ratio = fit.log_prob(between)[0] - norm.logpdf(2 / STD) + np.log(2 * STD)
    # Twenty draws, but for chance; the log ratio falls by 2 STD^-2 times |z| beside the middle.
    expected = 1e-3 * float(ratio)
    assert abs(certificate.stray_gap - expected) < 4 * 0.25 * expected
    assert abs(certificate.stray_fraction - 1e-3) < 4 * 2.3e-4
    assert certificate.verdict.startswith("Not at maximum entropy")
    assert "of which" in certificate.verdict
    assert f"{certificate.stray_fraction:.2%} of the draws" in certificate.verdict


def test_mass_where_a_statistic_is_bounded_is_reported():
    """Beyond two units the density is flat, and reaches to the ends of the box."""
    certificate = certificate_of(Modes([0.5, 0.5], STD), limit=2.0, eta=[-0.5])
    z = np.linspace(-HALF_WIDTH, HALF_WIDTH, 100_001)
    units = (np.abs(z) - 2) ** 2 / STD**2
    density = np.exp(-0.5 * np.minimum(units, 2.0))
    exact = density[units >= 2].sum() / density.sum()
    error = 4 / np.sqrt(certificate.prior_ess)
    assert abs(certificate.bounded_mass - exact) < error


def test_draws_that_fail_have_no_part(rng):
    """A tenth of all draws fails, wherever they are: that much less mass is left."""
    inputs = inputs_of(Modes([0.5, 0.5], STD), eta=[-0.5])
    runs = jnp.asarray(rng.uniform(size=inputs.pool.log_share.shape) > 0.1)
    draws = inputs.pool.draws
    draws = draws._replace(
        finite=draws.finite & runs,
        statistics=jnp.where(runs[..., None], draws.statistics, 0.0),
    )
    measured = SimpleNamespace(violation=np.zeros(1))
    pool = inputs.pool._replace(draws=draws)
    certificate = certify(inputs._replace(pool=pool), ["f"], measured, TOLERANCES)
    # The fraction that runs is known from a quarter of the prior's draws, and all of the fit's.
    error = np.hypot(certificate.gap_se, np.sqrt(0.1 / 0.9 / (1.25 * NUM_DRAWS)))
    assert abs(certificate.dual_bound - OPTIMUM - np.log(0.9)) < 4 * error
    assert np.isfinite(certificate.pareto_k)
    assert certificate.missed_mass < 1e-3
