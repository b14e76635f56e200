"""Five seeds of the hub's frequency with default settings, without and with current noise."""

import jax
import numpy as np
import pytest

from models import stg
from models.stg_circuit import CURRENT_NOISE

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

NUM_SEEDS, NUM_SAMPLES = 5, 100_000
NUM_NOISY = 20_000
"""Corrected draws with noise: each is one of ten that are simulated 16 times."""
UNITS = np.array([stg.STD, stg.STD**2])
"""Standard deviation that is asked for, in Hz, and its square."""


@pytest.mark.parametrize("noise", [0.0, CURRENT_NOISE], ids=["quiet", "noise"])
def test_fits(noise):
    print("\nseed status epochs s (to 0.05 nats) entropy gap violation/sd eta*unit uncovered")
    for seed in range(NUM_SEEDS):
        result = stg.fit("intermediate-hub", stg.PUBLISHED_BOX, noise, seed, 30)
        certificate, measured = result.certificate, result.measured
        seconds = np.cumsum(result.history.seconds)
        gaps = np.asarray(result.history.epochs.gap).ravel()[1:]
        near = np.argmax(gaps <= 0.05) + 1
        reached = f"{near} {seconds[near]:.0f}" if np.any(gaps <= 0.05) else "never"
        eta = np.array(list(certificate.natural_parameters.values())) * UNITS
        print(
            f"{seed} {result.status.name} {len(gaps)} {seconds[-1]:.0f} ({reached}) "
            f"{result.entropy:.3f} +- {measured.entropy_se:.3f} "
            f"{certificate.gap:.3f} +- {certificate.gap_se:.3f} "
            f"{np.abs(measured.violation).max():.4f} {eta.round(3)} "
            f"{certificate.missed_mass:.4f} +- {certificate.missed_mass_se:.4f}"
        )
        for corrected in (False, True):
            number = NUM_NOISY if noise and corrected else NUM_SAMPLES
            draws = result.sample(jax.random.key(seed), number, corrected=corrected)
            g = np.asarray(draws["g"])
            label = "corrected" if corrected else "fit"
            print(f"  {label}: mean {g.mean(0).round(3)}, sd {g.std(0).round(3)} nS")
