"""Superior colliculus: a population of accurate circuits, found without a flow, and what it does.

Population Monte Carlo from the circuits among prior draws that happen to behave. Its target,
prior x exp(-(accuracy - 0.75)^2 / (2 0.06^2)) in both tasks, is close to the maximum-entropy one.
"""

import os
import subprocess
import sys
from pathlib import Path

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import sc
from models import sc_simulator as simulator
from models.sc_simulator import Inactivation

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

NUM_PRIOR = 200_000
NUM_PARTICLES = 3000
NUM_ROUNDS = 5


def accuracies(rng_key, z, num_trials, inactivation=Inactivation()):  # noqa: B008 - immutable
    def one(key_and_z):
        key, weights = key_and_z[0], simulator.symmetric_weight_matrix(key_and_z[1])
        v = simulator.simulate(key, weights, num_trials, inactivation=inactivation)
        return sc.responses(v).accuracy

    run = jax.jit(lambda pair: jax.lax.map(one, pair, batch_size=500))
    return np.asarray(run((jax.random.split(rng_key, len(z)), jnp.asarray(z, jnp.float32))))


@pytest.fixture(scope="module")
def population():
    """Equally weighted circuits, shape ``(2000, 4)``: sW, vW, hW, dW."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-sc.BOX, sc.BOX, (NUM_PRIOR, 4))
    found = accuracies(jax.random.key(0), z, 30)
    z = z[np.all((found > 0.6) & (found < 0.9), axis=-1)]
    weights = np.full(len(z), 1 / len(z))
    for number in range(NUM_ROUNDS):
        width = 0.5 * np.sqrt(np.diag(np.cov(z.T, aweights=weights)))
        chosen = rng.choice(len(z), NUM_PARTICLES, p=weights)
        moved = z[chosen] + width * rng.standard_normal((NUM_PARTICLES, 4))
        moved = moved[np.abs(moved).max(-1) < sc.BOX]
        distance = ((moved[:, None] - z[None]) / width) ** 2
        log_proposal = np.log(np.exp(-0.5 * distance.sum(-1)) @ weights)
        found = accuracies(jax.random.key(1 + number), moved, 200)
        log_weights = -0.5 * (((found - 0.75) / 0.06) ** 2).sum(-1) - log_proposal
        z, weights = moved, np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
    assert 1 / np.sum(weights**2) > 100
    return z[rng.choice(len(z), 2000, p=weights)]


@pytest.fixture(scope="module")
def silenced(population):
    """Mean error in Pro and in Anti trials by the share of the delay's activity that is lost."""
    key = jax.random.key(100)
    return {
        strength: 1 - accuracies(key, population, 200, Inactivation(strength)).mean(0)
        for strength in (0.0, 0.3, 0.675, 0.85)
    }


# Resampled weights of 100 effective circuits: errors of mean eigenvalues are about 0.2, of mean
# accuracies below 0.01.


def test_signs_of_the_eigenvalues(population):
    """Task and diag are amplified, all and side suppressed (eLife 10:e56265)."""
    weights = jax.vmap(simulator.symmetric_weight_matrix)(jnp.asarray(population))
    mean = np.asarray(jax.vmap(simulator.mode_eigenvalues)(weights)).mean(0)
    whole, side, task, diag = mean
    assert whole < -3
    assert side < -0.4
    assert task > 1
    assert diag > 1


def test_bend_of_horizontal_over_self_weights(population):
    """They grow together where sW < 0 and against each other where sW > 0 (eLife 10:e56265)."""
    s, _, h, _ = population.T
    below, above = (s > -2) & (s < -0.5), (s > 0.5) & (s < 2)
    assert np.corrcoef(s[below], h[below])[0, 1] > 0.3
    assert np.corrcoef(s[above], h[above])[0, 1] < -0.3


def test_weak_silencing_of_the_delay_does_nothing(silenced):
    np.testing.assert_allclose(silenced[0.3], silenced[0.0], atol=0.02)


def test_silencing_of_the_delay_hurts_anti_trials_alone(silenced):
    induced = silenced[0.675] - silenced[0.0]
    assert abs(induced[0]) < 0.03
    assert 0.05 < induced[1] < 0.25


def test_strong_silencing_of_the_delay_makes_anti_trials_pro_trials(silenced):
    # The rule is forgotten: the animal goes to the light as often as in Pro trials.
    assert abs(silenced[0.85][0] - silenced[0.0][0]) < 0.03
    np.testing.assert_allclose(silenced[0.85][1], 1 - silenced[0.0][0], atol=0.05)


# The command -------------------------------------------------------------------------------------


def test_command(tmp_path):
    flags = ["--num-epochs", "1", "--num-trials", "2", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "models.sc", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # compiling is what takes long
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ("pair", "optimization", "path", "silencing")
    files = {"fit_0.75.nc", "eigenvalues.png", *(f"{name}_0.75.png" for name in names)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    table = done.stdout[done.stdout.index("accuracy      ") :].splitlines()
    assert table[0].split()[1:] == list(simulator.MODES)
    data = arviz.from_netcdf(str(tmp_path / "out" / "fit_0.75.nc"), engine="h5netcdf")
    assert list(data["posterior"]["weight"].values) == ["sW", "vW", "hW", "dW"]
    z, predicted = np.asarray(data["posterior"]["z"])[0], data["posterior_predictive"]
    s, v, h, d = z.T
    task = np.asarray(predicted["eigenvalue"].sel(mode="task"))[0]
    np.testing.assert_allclose(task, s - v + h - d, atol=1e-5)
    assert predicted["accuracy"].dims[2:] == ("task",)
