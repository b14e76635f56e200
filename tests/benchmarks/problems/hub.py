"""The ganglion: the hub's frequency, without and with noise, and network syncing."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from models.stg_circuit import CURRENT_NOISE, NEURONS, frequency, simulate
from numpyro_dsn import DSN, behavior
from numpyro_dsn.constraints import Moments
from tests.benchmarks.fits import GAP, eta_of, fit, report, seconds_to
from tests.benchmarks.oracles import oracle
from tests.benchmarks.rows import Row, worst

LOW, HIGH = np.array([4.0, 0.01]), np.array([8.0, 4.0])
"""The published box of g_el and g_synA, in nS."""
MEAN, STD, HUB = 0.55, 0.025, NEURONS.index("hub")


def circuit(noise: float) -> None:
    g = numpyro.sample("g", dist.Uniform(jnp.asarray(LOW), jnp.asarray(HIGH)).to_event(1))
    rng_key = numpyro.prng_key() if noise else None
    numpyro.deterministic("frequency", frequency(simulate(g, rng_key, noise)))


def intermediate_hub(sites) -> None:
    behavior("hub", sites["frequency"][HUB], Moments(mean=MEAN, std=STD))


def network_syncing(sites) -> None:
    everyone = np.ones(len(NEURONS))
    behavior("syncing", sites["frequency"], Moments(mean=MEAN * everyone, std=STD * everyone))


def hub(noisy: bool, seed: int) -> Iterator[Row]:
    """Seconds of the fit until the gap is at most 0.05 nats."""
    result, seconds = fit(DSN(circuit, intermediate_hub), seed, CURRENT_NOISE if noisy else 0.0)
    row = Row("hub with noise" if noisy else "hub without noise", seed, seconds)
    row.at_most("gap", result.certificate.gap, GAP)
    row.at_most(f"s to gap {GAP}", seconds_to(result), 180 if noisy else 100, ".0f")
    row.note("entropy", result.entropy)
    if not noisy:
        row.note("of", oracle("hub")["entropy"])
    row.note("violation", worst(result.measured.violation), ".4f")
    unit = np.array([STD, STD**2])
    row.note("eta", ", ".join(f"{e:.3f}" for e in eta_of(result) * unit))
    yield report(row, result)


def syncing(seed: int) -> Iterator[Row]:
    """All five neurons in the published box: as it comes out."""
    result, seconds = fit(DSN(circuit, network_syncing), seed, 0.0)
    row = Row("network syncing, published box", seed, seconds)
    row.note("gap", result.certificate.gap).note("entropy", result.entropy)
    row.note("violation", worst(result.measured.violation), ".4f")
    yield report(row, result)
