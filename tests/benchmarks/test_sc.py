"""Superior colliculus: circuits per second, rarity of the behavior, and other engines.

CPU time of one thread, not wall time: it does not depend on what else the machine does.
"""

import time
from functools import partial

import jax
import numpy as np
import pytest

from models import sc
from models.sc_simulator import simulate, symmetric_weight_matrix
from numpyro_dsn import baselines, behavior
from numpyro_dsn.constraints import Moments

pytestmark = pytest.mark.benchmark

BATCH_SIZE = 500
"""Circuits that are simulated at once, as in a fit."""


def accuracy(rng_key, z, num_trials):
    return sc.responses(simulate(rng_key, symmetric_weight_matrix(z), num_trials)).accuracy


def prior_accuracies(rng_key, number, num_trials):
    """Weights, accuracies and circuits per second of CPU time, after compiling."""
    run = jax.jit(jax.vmap(lambda key, z: accuracy(key, z, num_trials)))
    results, spent = [], 0.0
    keys = jax.random.split(rng_key, 1 + number // BATCH_SIZE)
    for index, key in enumerate(keys):
        draw_key, noise_key = jax.random.split(key)
        z = jax.random.uniform(draw_key, (BATCH_SIZE, 4), minval=-sc.BOX, maxval=sc.BOX)
        noise_keys = jax.random.split(noise_key, BATCH_SIZE)
        start = time.process_time()
        found = jax.block_until_ready(run(noise_keys, z))
        if index > 0:  # the first one compiles
            spent += time.process_time() - start
            results.append((np.asarray(z), np.asarray(found)))
    z, found = (np.concatenate(part) for part in zip(*results, strict=True))
    return z, found, len(z) / spent


@pytest.mark.parametrize("num_trials", [30, 50, 100, 200])
def test_circuits_per_second(num_trials, rng_key):
    *_, rate = prior_accuracies(rng_key, 4000, num_trials)
    print(f"\n{num_trials} trials of each task: {rate:.0f} circuits/s")


@pytest.mark.parametrize(("num_trials", "number"), [(30, 400_000), (200, 60_000)])
def test_share_of_the_prior_that_behaves(num_trials, number, rng_key):
    """60 to 90 % correct in both tasks; fewer trials are lucky more often."""
    _, found, rate = prior_accuracies(rng_key, number, num_trials)
    hits = np.all((found > 0.6) & (found < 0.9), axis=-1)
    share = hits.mean()
    error = np.sqrt(share / len(hits))
    print(f"\n{num_trials} trials: {hits.sum()} of {len(hits)}, {share:.2e} +- {error:.1e}, "
          f"{rate:.0f} circuits/s")  # fmt: skip


@pytest.mark.filterwarnings("ignore:A particle of SMC-ABC moved")
def test_other_engines():
    """Simulations of 200 trials and CPU seconds for 1000 circuits with 60 to 90 % in both tasks.

    SMC-ABC's count of distinct circuits says how many of its draws are copies.
    """

    def within_two(sites):
        behavior("performance", sites["accuracy"], Moments(np.full(2, 0.75), np.full(2, 0.075)))

    problem = baselines.problem(partial(sc.circuit, 4, 200), within_two)
    engines = {
        "rejection": lambda key: baselines.rejection(
            key, problem, num_simulations=60_000, epsilon=2.0
        ),
        "SMC-ABC": lambda key: baselines.smc_abc(
            key, problem, num_particles=500, num_chains=1, num_mcmc_steps=60, epsilon=2.0
        ),
    }
    for name, engine in engines.items():
        start = time.process_time()
        data = engine(jax.random.key(0))
        spent = time.process_time() - start
        z = np.asarray(data["posterior"]["z"]).reshape(-1, 4)
        distinct, scale = len(np.unique(z, axis=0)), 1000 / len(z)
        print(
            f"\n{name}: {len(z)} circuits, {distinct} distinct, "
            f"{data.attrs['num_simulations'] * scale:.0f} simulations and {spent * scale:.0f} s "
            f"for 1000, mean weights {z.mean(0).round(2)}, sd {z.std(0).round(2)}"
        )
