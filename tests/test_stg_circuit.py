"""The stomatogastric circuit: its equations in other units, its statistic, its error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import stg_circuit
from models.stg_circuit import NEURONS, State, derivative, frequency, simulate

HUB = NEURONS.index("hub")
MODE = jnp.array([6.107, 1.309])


@pytest.fixture(scope="module")
def prior():
    return np.random.default_rng(0).uniform([4, 0.01], [8, 4], (1000, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def frequencies():
    return jax.jit(jax.vmap(lambda g: frequency(simulate(g))))


# The equations -----------------------------------------------------------------------------------


def derivative_in_mv(v, n, h, g_el, g_syn_a):
    """Derivatives in mV/ms and 1/ms, neuron by neuron, in mV, ms, nS, pA and pF."""
    kind = {"f1": 0, "f2": 0, "hub": 1, "s1": 2, "s2": 2}
    g_ca, g_k, g_h = (19.0, 17.0, 8.5), (39.0, 19.0, 15.0), (25.0, 8.0, 10.0)
    junctions = [("f2", "hub"), ("hub", "s2")]
    synapses = [("f1", "f2", 5.0), ("f2", "f1", 5.0), ("s1", "s2", 5.0), ("s2", "s1", 5.0)]
    synapses += [("f1", "hub", g_syn_a), ("s1", "hub", g_syn_a)]
    potential = dict(zip(NEURONS, v, strict=True))
    slopes = []
    for name, n_i, h_i in zip(NEURONS, n, h, strict=True):
        v_i, k = potential[name], kind[name]
        current = 0.1 * (v_i + 40)
        current += g_ca[k] * 0.5 * (1 + np.tanh(v_i / 20)) * (v_i - 100)
        current += g_k[k] * n_i * (v_i + 80) + g_h[k] * h_i * (v_i + 20)
        for one, other in junctions:
            if name in (one, other):
                current += g_el * (v_i - potential[other if name == one else one])
        for pre, post, g in synapses:
            if post == name:
                current += g / (1 + np.exp((-25 - potential[pre]) / 5)) * (v_i + 75)
        n_slope = 0.002 * np.cosh(v_i / 30) * (0.5 * (1 + np.tanh(v_i / 15)) - n_i)
        tau_h = 272 + 1499 / (1 + np.exp((-v_i - 42.2) / 87.3))
        h_slope = (1 / (1 + np.exp((v_i + 78.3) / 10.5)) - h_i) / tau_h
        slopes.append((-current / 1000, n_slope, h_slope))
    return np.transpose(slopes)


def test_derivative_is_that_of_other_units():
    rng = np.random.default_rng(1)
    for _ in range(20):
        v, n, h = rng.uniform(-80, 60, 5), rng.uniform(0, 1, 5), rng.uniform(0, 1, 5)
        g = rng.uniform(0, 8, 2)
        state = State(*(jnp.asarray(x, jnp.float32) for x in (v / 1000, n, h)))
        found = derivative(state, jnp.asarray(g, jnp.float32))
        # mV/ms is V/s, and 1/ms is 1000/s.
        expected = derivative_in_mv(v, n, h, *g) * np.array([1, 1000, 1000])[:, None]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-4)


def test_hub_is_alone_without_its_conductances():
    state = stg_circuit.initial_state()
    other = state._replace(v=state.v.at[jnp.array([0, 1, 3, 4])].set(0.0))
    slopes = [derivative(s, jnp.zeros(2)).v[HUB] for s in (state, other)]
    assert slopes[0] == slopes[1]
    coupled = [derivative(s, MODE).v[HUB] for s in (state, other)]
    assert coupled[0] != coupled[1]


# Simulation --------------------------------------------------------------------------------------

# Frequencies in Hz from an independent simulation of the same equations by NumPy.
LISTED = [
    ((6.107, 1.309), {"f1": 0.538, "f2": 0.549, "hub": 0.550, "s1": 0.551, "s2": 0.552}),
    ((4.5, 3.0), {"f1": 0.680, "f2": 0.681, "hub": 0.348, "s1": 0.332, "s2": 0.346}),
    ((4.0, 0.01), {"f1": 0.682, "f2": 0.683, "hub": 0.680, "s1": 0.467, "s2": 0.412}),
    ((8.0, 0.01), {"hub": 0.630}),
    ((8.0, 4.0), {"hub": 0.378}),
    ((5.0, 1.0), {"hub": 0.601}),
]


def test_frequencies_are_those_of_another_simulation(frequencies):
    found = frequencies(jnp.array([g for g, _ in LISTED]))
    for row, (_, expected) in zip(found, LISTED, strict=True):
        at = [NEURONS.index(name) for name in expected]
        np.testing.assert_allclose(row[jnp.array(at)], list(expected.values()), atol=0.005)


def test_gradients_are_finite(prior):
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda g: frequency(simulate(g)))))(prior)
    assert jacobian.shape == (1000, 5, 2)
    assert np.all(np.isfinite(jacobian))


def test_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        mode = jnp.asarray(np.array([6.107, 1.309]))
        hub = jax.jit(lambda g: frequency(simulate(g))[HUB])
        gradient, step = jax.grad(hub)(mode), 1e-5
        for entry, shift in enumerate(step * np.eye(2)):
            difference = (hub(mode + shift) - hub(mode - shift)) / (2 * step)
            np.testing.assert_allclose(gradient[entry], difference, rtol=1e-4)


@pytest.mark.parametrize("dt", [0.01, 0.05, 0.024])
def test_step_divides_the_sample_interval(dt):
    with pytest.raises(ValueError, match=rf"`dt` must divide .* but is {dt} s"):
        simulate(MODE, dt=dt)


def test_smaller_steps_converge():
    potentials = [simulate(MODE, dt=dt, num_samples=20) for dt in (0.005, 0.0025, 0.00125)]
    coarse, fine = (np.abs(one - potentials[2]).max() for one in potentials[:2])
    # Euler's error is proportional to the step: (4 - 1) / (2 - 1).
    assert 2.5 < coarse / fine < 3.5


def test_noise_kicks_every_neuron_at_every_sample(rng_key):
    noise, quiet = 1e-12, simulate(MODE, num_samples=1)[0]
    keys = jax.random.split(rng_key, 4000)
    kicked = jax.vmap(lambda key: simulate(MODE, key, noise, num_samples=1)[0])(keys)
    kicks = np.asarray(kicked - quiet[None])
    size = 0.025 / 1e-9 * noise
    np.testing.assert_allclose(kicks.std(0), size, rtol=4 / np.sqrt(2 * 4000))
    np.testing.assert_allclose(kicks.mean(0), 0, atol=4 * size / np.sqrt(4000))
    correlations = np.corrcoef(kicks.T)[np.triu_indices(5, 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(4000)
    # A second sample is kicked anew.
    two = jax.vmap(lambda key: simulate(MODE, key, noise, num_samples=2)[1])(keys)
    later = np.asarray(two - simulate(MODE, num_samples=2)[1][None])
    assert np.all(np.abs([np.corrcoef(kicks[:, i], later[:, i])[0, 1] for i in range(5)]) < 0.95)


def test_noise_does_not_depend_on_the_step(rng_key):
    runs = [simulate(MODE, rng_key, 1e-11, dt, 20) for dt in (0.0025, 0.00125)]
    quiet = [simulate(MODE, dt=dt, num_samples=20) for dt in (0.0025, 0.00125)]
    responses = [np.asarray(run - alone) for run, alone in zip(runs, quiet, strict=True)]
    assert np.abs(responses[0] - responses[1]).max() < 0.1 * np.abs(responses[0]).max()


def test_noise_needs_a_key():
    with pytest.raises(ValueError, match="no `rng_key`"):
        simulate(MODE, noise=1e-12)


# The statistic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hertz", [0.3, 0.55, 0.8])
def test_frequency_of_a_sine(hertz):
    times = stg_circuit.SAMPLE_INTERVAL * np.arange(stg_circuit.NUM_SAMPLES)
    sine = 0.03 * np.sin(2 * np.pi * hertz * times)[:, None]
    # Seven seconds resolve a few hundredths of a hertz.
    np.testing.assert_allclose(frequency(jnp.asarray(sine, jnp.float32)), hertz, atol=0.02)


def test_frequency_follows_its_definition(rng_key):
    potentials = np.asarray(0.04 * jax.random.normal(rng_key, (300, 3)), float)
    rectified = np.maximum(potentials[20:], 0)
    smooth = np.stack([rectified[i : i + 20].mean(0) for i in range(261)])
    smooth -= smooth.mean(0)
    phase = np.exp(-2j * np.pi * 0.025 * 0.01 * np.arange(101)[:, None] * np.arange(261))
    size = 500 * np.abs(phase @ smooth)
    weights = np.exp(size - size.max(0))
    expected = 0.01 * np.arange(101) @ (weights / weights.sum(0))
    found = frequency(jnp.asarray(potentials, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_silent_neurons_read_the_middle_and_have_a_gradient():
    silent = jnp.full((300, 1), -0.05)
    np.testing.assert_allclose(frequency(silent), 0.5, atol=1e-6)
    gradient = jax.grad(lambda v: frequency(v)[0])(silent)
    np.testing.assert_array_equal(gradient, 0)


# The error of Euler's method ---------------------------------------------------------------------


@pytest.mark.slow
def test_euler_is_slow_by_a_few_percent():
    pytest.importorskip("diffrax")
    reference = jax.jit(stg_circuit.solve)(MODE)
    found = {dt: simulate(MODE, dt=dt) for dt in (0.025, 0.0125, 0.005, 0.001)}
    exact = float(frequency(reference)[HUB])
    bias = [float(frequency(potentials)[HUB]) / exact - 1 for potentials in found.values()]
    assert -0.06 < bias[0] < -0.03  # at the published step
    assert np.all(np.diff(bias) > 0)
    assert abs(bias[-1]) < 0.01
    errors = [np.abs(potentials - reference)[:40].max() for potentials in found.values()]
    assert np.all(np.diff(errors) < 0)
