"""V1 of the draft's section 3.2: threshold-quadratic rates, of which 0.4 % of the prior blow up."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_dsn import DSN, behavior
from numpyro_dsn.constraints import AtMost, Moments
from tests.benchmarks.fits import fit, report
from tests.benchmarks.oracles import RUN_AWAY, oracle
from tests.benchmarks.rows import Row, worst

NUM_STEPS, DT, TAU = 100, 0.005, 0.02
"""Steps of the integrator; their size and the time constant in s."""
STD = 0.25
POPULATIONS = {"S": 2, "V": 3}
NUM_DRAWS, FAR = 100_000, 5.0
"""Fresh draws, and the |gamma| that is 20 target units away."""


def weight_matrix(z):
    xe, ep, pp, vp, es, ps, vs, sv = z
    rows = [[1, -ep, -es, 0], [xe, -pp, -ps, 0], [xe, 0, 0, -sv], [xe, -vp, -vs, 0]]
    return jnp.array(rows)


def final_rates(weights):
    """Rates of E, P, S and V in the end, by the method of Runge and Kutta; at most a million."""

    def slope(rates):
        return (jnp.maximum(weights @ rates + 1, 0) ** 2 - rates) / TAU

    def step(rates, _):
        k1 = slope(rates)
        k2 = slope(rates + DT / 2 * k1)
        k3 = slope(rates + DT / 2 * k2)
        k4 = slope(rates + DT * k3)
        rates = rates + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return jnp.where(jnp.isfinite(rates), jnp.clip(rates, -1e6, 1e6), 1e6), None

    return jax.lax.scan(step, jnp.ones(4), length=NUM_STEPS)[0]


def circuit(run_away: str) -> None:
    """Rates of circuits that run away are huge finite numbers, or NaN above a thousand."""
    z = numpyro.sample("W", dist.Uniform(jnp.zeros(8), 20.0).to_event(1))
    rates = final_rates(weight_matrix(z))
    if run_away == "nan":
        rates = jnp.where(jnp.max(jnp.abs(rates)) > RUN_AWAY, jnp.nan, rates)
    numpyro.deterministic("rates", rates)
    numpyro.deterministic("gamma", 1 - 2 * jnp.sqrt(jnp.maximum(rates[0], 1e-12)))


def silenced(population: str):
    """State that gamma has mean 0 and standard deviation 0.25, and a population is silent."""

    def statements(sites) -> None:
        behavior("regime", sites["gamma"], Moments(mean=0.0, std=STD))
        behavior("silence", sites["rates"][POPULATIONS[population]], AtMost(0.02))

    return statements


def true_gap(result, weights, gamma, rate, exact: dict) -> float:
    """Return the KL of the fit to the oracle's density on near draws, in nats."""
    units = np.stack([gamma / STD, (gamma / STD) ** 2 - 1, rate / 0.02 - 1], -1)
    log_ratio = units @ np.array(exact["eta_per_target_unit"]) - exact["entropy"]
    return float(np.mean(np.asarray(result.log_prob({"W": weights}), float) - log_ratio))


def v1(population: str, run_away: str, seed: int) -> Iterator[Row]:
    """The fit beside an oracle without the circuits that run away."""
    result, seconds = fit(DSN(circuit, silenced(population)), seed, run_away)
    result.print_summary()
    exact = oracle(f"v1{population.lower()}")
    draws = result.sample(jax.random.key(99), NUM_DRAWS)
    gamma, rate = (np.asarray(x, float) for x in (draws["gamma"], draws["rates"]))
    rate, near = rate[:, POPULATIONS[population]], np.abs(gamma) <= FAR
    true = true_gap(result, draws["W"][near], gamma[near], rate[near], exact)
    second = np.mean(gamma[near] ** 2) / STD**2
    mean, std = (np.asarray(exact[name]) for name in ("mean", "std"))
    shift = np.max(np.abs(np.asarray(draws["W"], float).mean(0) - mean) / std)
    label = f"V1, {population} silenced, {run_away}"
    row = Row(label, seed, seconds)
    row.at_most("gap", result.certificate.gap, 0.15)
    row.at_most("true gap", true, 0.15)
    row.near("entropy", result.entropy, exact["entropy"], 0.1)
    row.note("violation", worst(result.measured.violation), ".3f")
    yield report(row, result)
    row = Row(f"{label}: {NUM_DRAWS:,} new draws", seed)
    row.near("E γ²/.0625", second, 1.0, 0.05)
    row.at_most("far", 1 - near.mean(), 1e-4, ".0e")
    row.note("means off by sd", shift, ".2f").note("E r", np.nanmean(rate[near]), ".4f")
    yield row.note("largest |γ|", np.nanmax(np.abs(gamma)), ".1f")
