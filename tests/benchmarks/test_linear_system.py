"""Twenty seeds of the linear system with default settings, beside the exact answer."""

import jax
import numpy as np
import pytest

from models import lds
from numpyro_dsn import DSN

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

NUM_SEEDS = 20

EXACT = {
    "paper": (8.840, [0.0005, -0.4993, 1.776, -16.66]),
    "published": (7.040, [0.011, -8.009, 1.638, -47.18]),
}
"""Entropy in nats and natural parameters, from the dual on 40 million prior draws.

The standard errors are 0.001 and 0.002 nats, and 0.2 % of the largest natural parameter.
"""


@pytest.mark.parametrize("target", EXACT)
def test_seeds(target):
    entropy, eta = EXACT[target]
    dsn = DSN(lds.circuit, lds.TARGETS[target])
    print("\nseed status epochs entropy violation/sd gap eta-error mode-mass uncovered")
    for seed in range(NUM_SEEDS):
        result = dsn.run(jax.random.key(seed), progress_bar=False)
        certificate, measured = result.certificate, result.measured
        scale = np.asarray(measured.scale)
        found = np.array(list(certificate.natural_parameters.values()))
        # In nats per standard deviation of T, relative to the largest: one exact value is zero.
        error = np.abs(found - eta) * scale / np.max(np.abs(eta) * scale)
        mass = (result.sample(jax.random.key(99), 20_000)["a"][:, 1] > 0).mean()
        print(
            f"{seed} {result.status.name} {len(result.history.epochs.entropy) - 1} "
            f"{result.entropy:.3f} ({result.entropy - entropy:+.3f}) "
            f"{np.abs(measured.violation).max():.4f} {certificate.gap:.3f} {error.max():.3f} "
            f"{mass:.3f} {certificate.missed_mass:.4f}"
        )
