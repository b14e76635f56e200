"""Cost of the stomatogastric circuit: circuits per second, and gradients in seconds and MB."""

import time

import jax
import numpy as np
import pytest

from models import stg_circuit
from models.stg import PUBLISHED_BOX
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
