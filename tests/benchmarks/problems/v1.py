"""V1 of the draft's section 3.2, of whose prior 0.4 % blow up, and its stochastic successor."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from models import v1, v1_noise
from models.v1_circuit import DT, NUM_STEPS, POPULATIONS, WEIGHTS, isn_coefficient, slope
from models.v1_circuit import weight_matrix as matrix_of
from models.v1_statements import SENDERS, input_trends, weight_spreads
from numpyro_dsn import DSN
from tests.benchmarks.fits import epochs_of, fit, report, simulations_of
from tests.benchmarks.oracles import oracle
from tests.benchmarks.rows import Row, worst

NUM_DRAWS, FAR = 100_000, 5.0
"""Fresh draws, and the |gamma| that is 20 target units away."""


def huge() -> None:
    """The circuit of :mod:`models.v1`, whose rates are up to a million where it runs away."""
    weights = {name: numpyro.sample(name, dist.Uniform(0.0, v1.BOX)) for name in WEIGHTS}
    matrix = matrix_of(weights)

    def step(rates, _):
        k1 = slope(matrix, rates)
        k2 = slope(matrix, rates + DT / 2 * k1)
        k3 = slope(matrix, rates + DT / 2 * k2)
        k4 = slope(matrix, rates + DT * k3)
        rates = rates + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return jnp.where(jnp.isfinite(rates), jnp.clip(rates, -1e6, 1e6), 1e6), None

    rates = jax.lax.scan(step, jnp.ones(4), length=NUM_STEPS)[0]
    numpyro.deterministic("rates", rates)
    numpyro.deterministic("inputs", matrix * rates[None])
    numpyro.deterministic("gamma", isn_coefficient(rates[0]))


CIRCUITS = {"huge": huge, "nan": v1.circuit}


def true_gap(result, draws, population: str, exact: dict) -> float:
    """Return the KL of the fit to the oracle's density on draws, in nats."""
    gamma, rate = draws["gamma"] / v1.STD, draws["rates"][:, POPULATIONS.index(population)]
    units = np.stack([gamma, gamma**2 - 1, rate / v1.TOLERANCE - 1], -1).astype(float)
    log_ratio = units @ np.array(exact["eta_per_target_unit"]) - exact["entropy"]
    return float(np.mean(np.asarray(result.log_prob(draws), float) - log_ratio))


def motif(population: str, kind: str, seed: int) -> Iterator[Row]:
    """The fit beside an oracle without the circuits that run away."""
    behavior = partial(v1.silenced, population=population)
    result, seconds = fit(DSN(CIRCUITS[kind], behavior), seed)
    result.print_summary()
    exact = oracle(f"v1{population.lower()}")
    draws = jax.tree.map(np.asarray, result.sample(jax.random.key(99), NUM_DRAWS))
    near = np.abs(draws["gamma"]) <= FAR
    share = 1 - near.mean()
    draws = {name: value[near] for name, value in draws.items()}
    label = f"{population} silenced, run-aways {kind}"
    row = Row(label, seed, seconds)
    row.at_most("gap", result.certificate.gap, 0.15)
    row.at_most("true gap", true_gap(result, draws, population, exact), 0.15)
    row.near("entropy", result.entropy, exact["entropy"], 0.1)
    row.note("violation", worst(result.measured.violation), ".3f")
    row.note("missed mass", result.certificate.missed_mass)
    row.note("simulations", simulations_of(result), ".2g")
    yield report(row, result)
    yield _fresh(f"{label}: {NUM_DRAWS:,} new draws", seed, population, draws, share, exact)
    if seed == 0:
        yield from _statements(population, kind, draws, exact)


def _fresh(label: str, seed: int, population: str, draws, share: float, exact: dict) -> Row:
    """What fresh draws are like, beside the oracle."""
    even = np.full(len(draws["gamma"]), 1 / len(draws["gamma"]))
    std, mean = np.array(exact["std"]), np.array(exact["mean"])
    shift = (np.stack([draws[name] for name in WEIGHTS], -1).mean(0) - mean) / std
    row = Row(label, seed)
    row.near("E γ²/.0625", np.mean(draws["gamma"] ** 2) / v1.STD**2, 1.0, 0.05)
    rate = draws["rates"][:, POPULATIONS.index(population)]
    row.note("E r", f"{rate.mean():.4f}±{rate.std() / len(rate) ** 0.5:.4f}")
    row.at_most("far", share, 1e-4, ".0e").at_most("means off by sd", worst(shift), 0.1, ".2f")
    spreads = weight_spreads(draws, even).value
    row.at_most("sds off by", worst(spreads / std - 1), 0.05, ".1%")
    return row.note("largest |γ|", np.abs(draws["gamma"]).max(), ".1f")


def _statements(population: str, kind: str, draws, exact: dict) -> Iterator[Row]:
    """What the draft says of spreads and inputs, of the fit and of the optimum."""
    even = np.full(len(draws["gamma"]), 1 / len(draws["gamma"]))
    spreads = weight_spreads(draws, even)
    row = Row(f"{population} silenced, run-aways {kind}: sd of the weights, fit (optimum)", 0)
    columns = WEIGHTS, spreads.value, spreads.error, exact["std"], exact["std_se"]
    for name, value, error, std, std_se in zip(*columns, strict=True):
        row.note("", f"{name} {value:.2f}±{error:.2f} ({std:.2f}±{std_se:.2f})")
    yield row
    trends = input_trends(draws, even, population)
    row = Row(f"{population} silenced, run-aways {kind}: input per γ, fit (optimum)", 0)
    for sender, (slope_, error) in zip(SENDERS[population], exact["slopes"], strict=True):
        found = trends[sender]
        text = f"{found.value:+.2f}±{found.error:.2f} ({slope_:+.2f}±{error:.2f})"
        row.note("", f"from {sender} {text}")
    yield row


def tolerance(population: str, tolerance: float) -> Iterator[Row]:
    """What another tolerance of the silent rate does, at the optimum and to a fit."""
    behavior = partial(v1.silenced, population=population, tolerance=tolerance)
    result, seconds = fit(DSN(v1.circuit, behavior), 0)
    exact = oracle(f"v1{population.lower()}-{tolerance:g}")
    row = Row(f"{population} silenced, mean rate ≤ {tolerance:g}", 0, seconds)
    row.near("entropy", result.entropy, exact["entropy"], 0.1)
    row.note("gap", result.certificate.gap)
    row.note("violation", worst(result.measured.violation))
    yield report(row, result)


def noise(target: float, seed: int) -> Iterator[Row]:
    """The stochastic network, beside an oracle with two hundred trials of each circuit."""
    exact = oracle(f"ssn-{target:g}")
    behavior = partial(v1_noise.fluctuating, mean=target)
    result, seconds = fit(DSN(v1_noise.circuit, behavior, method=v1_noise.METHOD), seed)
    result.print_summary()
    sigma = np.asarray(result.sample(jax.random.key(99), 20_000)["sigma"])
    squares = (sigma**2).reshape(-1, 2, 2).sum(-1).mean(0)
    row = Row(f"noise for {target:g} Hz", seed, seconds)
    row.near("entropy", result.entropy, exact["entropy"], 0.05)
    row.note("gap", result.certificate.gap).note("epochs", epochs_of(result), "d")
    shift = (sigma.mean(0) - exact["mean"]) / exact["std"]
    row.note("means off by sd", worst(shift), ".2f")
    row.note("correlation of E and P", np.corrcoef(sigma[:, :2].T)[0, 1], ".2f")
    text = f"{squares[0]:.2e}, {squares[1]:.2e} of "
    row.note("squares of E and P, S and V", text + "{:.2e}, {:.2e}".format(*exact["extra"]))
    yield report(row, result)
