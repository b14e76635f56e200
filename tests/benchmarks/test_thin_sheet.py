"""A property that is flat and rare: nearly every circuit of the prior has no gradient of it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from closed_forms import box
from grid_oracle import maximum_entropy

from numpyro_dsn import DSN
from numpyro_dsn.constraints import Moments

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

MEAN, STD = 0.75, 0.075
NUM_ORACLE = 8_000_000
"""Draws of the prior behind the exact answer, of which 8,500 are effective: 0.01 nats."""


def level(z, step):
    value = jax.nn.sigmoid(40 * (z[..., 0] + z[..., 1] - z[..., 2] * z[..., 3] - 6))
    return jnp.round(value / step) * step if step else value


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("step", [0.0, 0.01], ids=["smooth", "rounded"])
def test_thin_sheet(step, seed):
    def model():
        z = numpyro.sample("z", box(-5.0, 5.0, 4))
        numpyro.deterministic("level", level(z, step))

    z = np.random.default_rng(0).uniform(-5, 5, (NUM_ORACLE, 4)).astype(np.float32)
    deviation = np.asarray(level(z, step), float) - MEAN
    optimum = maximum_entropy([(-5, 5)] * 4, np.stack([deviation, deviation**2 - STD**2], 1))
    dsn = DSN(model, {"level": Moments(MEAN, STD)})
    result = dsn.run(jax.random.key(seed), progress_bar=False)
    certificate, measured = result.certificate, result.measured
    print(
        f"\n{seed} {result.status.name} {len(result.history.epochs.entropy) - 1} epochs, entropy "
        f"{result.entropy:.3f} of {optimum.entropy:.3f}, violation "
        f"{np.abs(measured.violation).max():.3f} sd, gap {certificate.gap:.3f}: "
        f"{certificate.verdict}"
    )
