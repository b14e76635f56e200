"""Cost of the stomatogastric circuit: circuits per second, and gradients in seconds and MB."""

import time

import jax
import numpy as np
import pytest
from grid_oracle import maximum_entropy
from scipy.ndimage import grey_opening
from stg_grid import frequencies_on_grid, standardized

from models import stg_circuit
from models.stg import BOXES, PUBLISHED_BOX
from models.stg_circuit import CURRENT_NOISE, NEURONS, frequency, simulate

HUB = NEURONS.index("hub")


def seconds(function, *arguments):
    """Best of five runs of a compiled function, and that function."""
    compiled = jax.jit(function).lower(*arguments).compile()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return min(times), compiled


@pytest.mark.benchmark
def test_cost():
    low, high = np.transpose(PUBLISHED_BOX)
    g = np.random.default_rng(0).uniform(low, high, (2000, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), len(g))
    took, _ = seconds(jax.vmap(lambda g: frequency(simulate(g))), g)
    print(f"\nwithout noise {len(g) / took:.0f} circuits per second")
    took, _ = seconds(jax.vmap(lambda g, k: frequency(simulate(g, k, CURRENT_NOISE))), g, keys)
    print(f"with noise {len(g) / took:.0f} circuits per second")
    gradient = jax.vmap(jax.value_and_grad(lambda g: frequency(simulate(g))[HUB]))
    took, compiled = seconds(gradient, g[:400])
    memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
    print(f"400 circuits forward and backward {took:.3f} s, {memory:.1f} MB")


@pytest.mark.benchmark
def test_euler_step():
    pytest.importorskip("diffrax")
    mode = np.array([6.107, 1.309], np.float32)
    exact = float(frequency(jax.jit(stg_circuit.solve)(mode))[HUB])
    print(f"\nhub {exact:.4f} Hz by diffrax")
    for dt in (0.025, 0.0125, 0.005, 0.001):
        hub = float(frequency(simulate(mode, dt=dt))[HUB])
        print(f"Euler, {1000 * dt:g} ms: {hub:.4f} Hz, {hub / exact - 1:+.1%}")


@pytest.mark.benchmark
@pytest.mark.parametrize("name", BOXES)
def test_needles(name):
    """Maximum entropy of network syncing where no density is above so many times the prior's."""
    box, size = BOXES[name], 960
    statistics = standardized(frequencies_on_grid(box, size)[1])
    print()
    for densest in (np.inf, 1000, 300, 100, 50, 30, 20):
        try:
            optimum = maximum_entropy(box, statistics, densest)
        except ValueError:
            print(f"{name} box, up to {densest} times the prior: infeasible")
            break
        is_needle = optimum.weights * len(statistics) > 100
        print(
            f"{name} box, up to {densest} times the prior: {optimum.entropy:.3f} nats; above 100 "
            f"times {optimum.weights[is_needle].sum():.3f} of the mass, {is_needle.mean():.5f} of "
            "the box"
        )


@pytest.mark.benchmark
def test_filaments():
    """Mass of the hub's optimum in what is thinner than a width, and what moments lose without."""
    size = 800
    g, frequencies = frequencies_on_grid(PUBLISHED_BOX, size)
    statistics = standardized(frequencies[:, [HUB]])
    weights = maximum_entropy(PUBLISHED_BOX, statistics).weights.reshape(size, size)
    for cells in (1, 5, 9, 15):
        broad = np.minimum(grey_opening(weights, size=cells), weights).ravel()
        mean = broad @ g / broad.sum()
        std = np.sqrt(broad @ g**2 / broad.sum() - mean**2)
        width = cells * np.ptp(PUBLISHED_BOX, axis=1)[0] / size
        print(f"thinner than {width:.3f} nS: {1 - broad.sum():.4f}; without, {mean} +- {std} nS")
