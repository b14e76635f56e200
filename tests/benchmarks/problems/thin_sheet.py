"""A property that is flat and rare: nearly every circuit of the prior has no gradient of it."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from numpyro_dsn import DSN
from numpyro_dsn.constraints import Moments
from tests.benchmarks.fits import GAP, fit, report, seconds_to
from tests.benchmarks.oracles import SHEET_MEAN, SHEET_STD, oracle
from tests.benchmarks.rows import Row, worst

STEPS = {"smooth": 0.0, "rounded": 0.01}


def circuit(step: float) -> None:
    z = numpyro.sample("z", dist.Uniform(-5.0 * jnp.ones(4), 5.0).to_event(1))
    level = jax.nn.sigmoid(40 * (z[0] + z[1] - z[2] * z[3] - 6))
    numpyro.deterministic("level", jnp.round(level / step) * step if step else level)


def thin_sheet(kind: str, seed: int) -> Iterator[Row]:
    """Seconds of the fit until the gap is at most 0.05 nats."""
    dsn = DSN(circuit, {"level": Moments(SHEET_MEAN, SHEET_STD)})
    result, seconds = fit(dsn, seed, STEPS[kind])
    row = Row(f"thin sheet, {kind}", seed, seconds).at_most("gap", result.certificate.gap, GAP)
    row.at_most(f"s to gap {GAP}", seconds_to(result), 360, ".0f")
    row.note("entropy", result.entropy).note("of", oracle(f"sheet-{kind}")["entropy"])
    row.note("violation", worst(result.measured.violation), ".4f")
    yield report(row, result)
