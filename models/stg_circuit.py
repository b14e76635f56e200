r"""The stomatogastric circuit of Gutierrez, O'Leary and Marder (2013).

Two fast neurons, two slow ones and a hub between them, each with a membrane potential V, the
activation N of potassium and H of the hyperpolarization-activated current: 15 states.

.. math::

    C \dot V &= -(I_{leak} + I_{Ca} + I_K + I_h + I_{elec} + I_{syn}) + I_{noise} \\
    \dot N &= \lambda_N(V) (N_\infty(V) - N), \qquad \dot H = (H_\infty(V) - H) / \tau_h(V)

Everything is in SI units, but for the two conductances that vary, which are in nS. Arrays over
neurons are in the order of :data:`NEURONS`.

References
----------
Gutierrez, O'Leary and Marder (2013), *Neuron* 77:845; the constants are those of the code of
Bittner et al. (2021), *eLife* 10:e56265.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

NEURONS = ("f1", "f2", "hub", "s1", "s2")

CAPACITANCE = 1e-9
"""C of every neuron, in F."""
G_LEAK, G_SYN_B = 1e-10, 5e-9
"""Conductances of the leak, and of the synapses f1 <-> f2 and s1 <-> s2, in S."""
G_CA = (1.9e-8, 1.9e-8, 1.7e-8, 8.5e-9, 8.5e-9)
"""Largest conductance of calcium, in S."""
G_K = (3.9e-8, 3.9e-8, 1.9e-8, 1.5e-8, 1.5e-8)
"""Largest conductance of potassium, in S."""
G_H = (2.5e-8, 2.5e-8, 8e-9, 1e-8, 1e-8)
"""Largest conductance of the hyperpolarization-activated current, in S."""
V_LEAK, V_CA, V_K, V_H, V_SYN = -0.04, 0.1, -0.08, -0.02, -0.075
"""Reversal potentials, in V."""
PHI_N = 2.0
"""Rate of N, in 1/s. The papers leave it out; it is in their code."""
CURRENT_NOISE = 1e-12
"""Standard deviation of the published current noise, in A."""

V_START = (-0.04169771, -0.04319491, 0.00883992, -0.06879824, 0.03048103)
"""V at the start, in V."""
N_START = (0.00151316, 0.19784773, 0.56514935, 0.12214069, 0.35290397)
H_START = (0.08614699, 0.04938177, 0.05568701, 0.07007949, 0.05790969)

SAMPLE_INTERVAL = 0.025
"""Time between two samples, and the published Euler step, in s."""
NUM_SAMPLES = 300
"""Published length of a simulation, in samples; the first :data:`NUM_SETTLING` are not used."""
NUM_SETTLING = 20
WINDOW = 20
"""Length of the moving average, in samples."""
FREQUENCIES = np.arange(101) * 0.01
"""Frequencies of the transform, in Hz."""
SHARPNESS = 500.0
"""Factor of the magnitude in the soft maximum. The paper prints 100; its code has 500."""


class State(NamedTuple):
    """Potentials in V, and activations N and H, each of shape ``(5,)``."""

    v: Array
    n: Array
    h: Array


def initial_state() -> State:
    """Return the published state at the start, the same for every circuit."""
    return State(*(jnp.asarray(values) for values in (V_START, N_START, H_START)))


def derivative(state: State, conductances: Array, current: Array | float = 0.0) -> State:
    r"""Return the time derivative of a state.

    Parameters
    ----------
    state
        State of the circuit.
    conductances
        :math:`g_{el}` of the gap junctions f2 - hub - s2 and :math:`g_{synA}` of the synapses from
        f1 and s1 onto the hub, shape ``(2,)``, in nS.
    current
        Injected current, shape ``(5,)`` or ``()``, in A.

    Returns
    -------
    Derivatives in V/s and 1/s.
    """
    v, n, h = state
    g_el, g_syn_a = conductances * 1e-9
    m_inf = 0.5 * (1 + jnp.tanh(v / 0.02))
    n_inf = 0.5 * (1 + jnp.tanh(v / 0.015))
    n_rate = PHI_N * jnp.cosh(v / 0.03)
    h_inf = 1 / (1 + jnp.exp((v + 0.0783) / 0.0105))
    h_time = 0.272 + 1.499 / (1 + jnp.exp((-v - 0.0422) / 0.0873))
    gate = 1 / (1 + jnp.exp((-0.025 - v) / 0.005))

    _, f2, hub, _, s2 = v
    none = jnp.zeros_like(hub)
    electrical = g_el * jnp.stack([none, f2 - hub, 2 * hub - f2 - s2, none, s2 - hub])
    from_f1, from_f2, _, from_s1, from_s2 = gate
    onto_hub = g_syn_a * (from_f1 + from_s1)
    others = [G_SYN_B * pre for pre in (from_f2, from_f1, from_s2, from_s1)]
    synapses = jnp.stack([*others[:2], onto_hub, *others[2:]])
    outward = (
        G_LEAK * (v - V_LEAK)
        + jnp.asarray(G_CA) * m_inf * (v - V_CA)
        + jnp.asarray(G_K) * n * (v - V_K)
        + jnp.asarray(G_H) * h * (v - V_H)
        + electrical
        + synapses * (v - V_SYN)
    )
    return State((current - outward) / CAPACITANCE, n_rate * (n_inf - n), (h_inf - h) / h_time)


def simulate(
    conductances: Array,
    rng_key: Array | None = None,
    noise: float = 0.0,
    dt: float = SAMPLE_INTERVAL,
    num_samples: int = NUM_SAMPLES,
) -> Array:
    """Integrate the circuit by Euler's method.

    The published step of 25 ms is coarse: it makes the circuit a few percent slower than it is.

    Parameters
    ----------
    conductances
        g_el and g_synA, shape ``(2,)``, in nS.
    rng_key
        Key of the current noise; not used if ``noise`` is zero.
    noise
        Standard deviation of a current that is drawn anew for every sample and neuron, in A. It is
        held for the whole 25 ms, so that it does not depend on the step.
    dt
        Step in s; 25 ms are a multiple of it.
    num_samples
        Number of samples, 25 ms apart.

    Returns
    -------
    Potentials at the end of every sample, shape ``(num_samples, 5)``, in V.

    Raises
    ------
    ValueError
        If 25 ms are no multiple of ``dt``, or there is noise without a key.
    """
    num_steps = round(SAMPLE_INTERVAL / dt)
    if num_steps < 1 or abs(num_steps * dt - SAMPLE_INTERVAL) > 1e-6 * SAMPLE_INTERVAL:
        raise ValueError(
            f"`dt` must divide the sample interval of {SAMPLE_INTERVAL} s, but is {dt} s; use for "
            "instance 0.005."
        )
    if noise and rng_key is None:
        raise ValueError(f"`noise` is {noise} A, but there is no `rng_key`; give one.")

    # The backward pass keeps the states alone: as fast, and a quarter of the memory.
    @jax.checkpoint
    def sample(state: State, index: Array) -> tuple[State, Array]:
        current: Array | float = 0.0
        if rng_key is not None and noise:
            # All noise at once would leave the cache and take twice the time.
            key = jax.random.fold_in(rng_key, index)
            current = noise * jax.random.normal(key, (len(NEURONS),))

        def step(state: State, _: None) -> tuple[State, None]:
            slope = derivative(state, conductances, current)
            return State(*(x + dt * slope_x for x, slope_x in zip(state, slope, strict=True))), None

        state, _ = jax.lax.scan(step, state, length=num_steps)
        return state, state.v

    return jax.lax.scan(sample, initial_state(), jnp.arange(num_samples))[1]


def solve(conductances: Array, num_samples: int = NUM_SAMPLES, tolerance: float = 1e-8) -> Array:
    """Integrate the noise-free circuit with an adaptive method of fifth order, as a reference.

    Parameters
    ----------
    conductances
        g_el and g_synA, shape ``(2,)``, in nS.
    num_samples
        Number of samples, 25 ms apart.
    tolerance
        Relative and absolute tolerance of a step, the latter in V. Needs double precision below
        about 1e-5.

    Returns
    -------
    Potentials as those of :func:`simulate`.

    Raises
    ------
    ImportError
        If diffrax is not installed.
    """
    try:
        import diffrax
    except ImportError as error:
        message = "The reference needs diffrax: `pip install numpyro-dsn[models]`."
        raise ImportError(message) from error
    times = SAMPLE_INTERVAL * jnp.arange(1, num_samples + 1)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda _, state, g: derivative(state, g)),
        diffrax.Tsit5(),
        0.0,
        times[-1],
        0.001,
        initial_state(),
        conductances,
        saveat=diffrax.SaveAt(ts=times),
        # A longer step can overflow, and no later one then succeeds.
        stepsize_controller=diffrax.PIDController(tolerance, tolerance, dtmax=SAMPLE_INTERVAL),
        max_steps=100 * num_samples,
    )
    return solution.ys.v


def frequency(potentials: Array) -> Array:
    r"""Return the frequency of every neuron's oscillation, a differentiable one.

    .. math:: \hat f = \sum_k f_k w_k, \qquad
              w = \mathrm{softmax}(\beta\, |X(f_1)|, \ldots, \beta\, |X(f_{101})|)

    X is the Fourier transform of the rectified potential, smoothed and centered. A silent neuron
    has no maximum: its frequency reads 0.5 Hz, the mean of all.

    Parameters
    ----------
    potentials
        Potentials 25 ms apart, shape ``(num_samples, num_neurons)``, in V.

    Returns
    -------
    Frequencies, shape ``(num_neurons,)``, in Hz.
    """
    settled = jnp.maximum(potentials[NUM_SETTLING:], 0.0)
    real, imaginary = (jnp.asarray(part) @ settled for part in _transform(settled.shape[0]))
    # The root of zero, of a silent neuron, has no gradient.
    magnitude = jnp.sqrt(real**2 + imaginary**2 + 1e-20)
    return jnp.asarray(FREQUENCIES) @ jax.nn.softmax(SHARPNESS * magnitude, axis=0)


def _transform(num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return moving average, centering and Fourier transform as one matrix: they are linear.

    Returns
    -------
    Real and imaginary part, each of shape ``(101, num_samples)``.
    """
    length = num_samples - WINDOW + 1
    average = np.stack([np.convolve(row, np.ones(WINDOW) / WINDOW) for row in np.eye(length)])
    average -= average.mean(0)
    phase = 2 * np.pi * SAMPLE_INTERVAL * FREQUENCIES[:, None] * np.arange(length)
    return np.cos(phase) @ average, np.sin(phase) @ average
