"""V1's four populations: weights in place, rates against a root-finder, the ISN coefficient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import root

from models import v1_circuit
from models.v1_circuit import POPULATIONS, WEIGHTS, final_rates, isn_coefficient, weight_matrix

ABSENT = [("E", "V"), ("P", "V"), ("S", "P"), ("S", "S"), ("V", "V")]
"""Connections to, from that Pfeffer et al. (2013) did not find."""


def matrices(number, largest, seed=0):
    z = np.random.default_rng(seed).uniform(0, largest, (number, len(WEIGHTS))).astype(np.float32)
    build = jax.vmap(lambda row: weight_matrix(dict(zip(WEIGHTS, row, strict=True))))
    return np.asarray(build(z))


def test_every_weight_has_its_place():
    values = dict(zip(WEIGHTS, jnp.arange(2.0, 10.0), strict=True))
    matrix = np.asarray(weight_matrix(values))
    for to, row in zip(POPULATIONS, matrix, strict=True):
        for sender, found in zip(POPULATIONS, row, strict=True):
            if sender == "E":
                expected = 1.0 if to == "E" else values["W_*E"]
            else:
                expected = -values.get(f"W_{to}{sender}", 0.0)
            assert found == expected, (to, sender)
            assert (found == 0) == ((to, sender) in ABSENT)


def drive(matrix, rates):
    return np.maximum(matrix @ rates + 1.0, 0.0) ** 2


def test_rates_that_have_settled_are_those_of_a_root_finder():
    found = np.asarray(jax.vmap(final_rates)(matrices(400, 20.0)), float)
    num_checked = 0
    for matrix, rates in zip(matrices(400, 20.0).astype(float), found, strict=True):
        if not np.isfinite(rates).all():
            continue
        # Slow or oscillating circuits are not there yet after half a second.
        if np.abs(drive(matrix, rates) - rates).max() > 1e-3 * max(rates.max(), 1.0):
            continue
        solved = root(lambda r, matrix=matrix: drive(matrix, r) - r, rates, tol=1e-12)
        assert np.abs(solved.fun).max() < 1e-7
        assert_allclose(rates, solved.x, atol=2e-3 * max(rates.max(), 1.0))
        num_checked += 1
    assert num_checked > 300


def test_rates_are_those_of_a_fine_integrator():
    """Euler's method with a hundredth of the step, from the same start to the same time."""
    z = matrices(20, 5.0, seed=1).astype(float)
    rates = np.ones((20, 4))
    duration = v1_circuit.NUM_STEPS * v1_circuit.DT
    for _ in range(100 * v1_circuit.NUM_STEPS):
        slope = [drive(matrix, row) - row for matrix, row in zip(z, rates, strict=True)]
        rates = rates + duration / (100 * v1_circuit.NUM_STEPS) / v1_circuit.TAU * np.array(slope)
    found = np.asarray(jax.vmap(final_rates)(z.astype(np.float32)))
    # An oscillating circuit is ahead of its phase: steps of a quarter of tau are published.
    still = [np.abs(drive(*pair) - pair[1]).max() < 0.05 for pair in zip(z, rates, strict=True)]
    assert sum(still) >= 15
    assert_allclose(found[still], rates[still], rtol=0.01, atol=2e-3)


def test_a_circuit_that_runs_away_has_no_rates_but_a_finite_gradient():
    weights = dict.fromkeys(WEIGHTS, jnp.zeros(())) | {"W_*E": jnp.array(5.0)}
    assert np.isnan(final_rates(weight_matrix(weights))).all()
    tamed = weights | {"W_EP": jnp.array(5.0), "W_PP": jnp.array(5.0)}
    gradient = jax.grad(lambda w: final_rates(weight_matrix(w))[0])(tamed)
    assert all(np.isfinite(leaf) for leaf in gradient.values())


def test_excitation_alone_is_stable_where_gamma_is_positive():
    """gamma times -1 is the slope of E's own rate about a steady state, in units of 1 / tau."""
    for rate in (0.04, 0.25, 0.64):
        own = jax.grad(lambda r, h: jax.nn.relu(r + h) ** 2 - r)(rate, jnp.sqrt(rate) - rate)
        assert_allclose(isn_coefficient(jnp.array(rate)), -own, atol=1e-5)
    assert_allclose(isn_coefficient(jnp.array(0.25)), 0.0, atol=1e-6)
    assert_array_equal(isn_coefficient(jnp.zeros(2)), [1.0, 1.0])
    assert np.isfinite(jax.grad(lambda r: isn_coefficient(r))(0.0))


@pytest.mark.parametrize("silent", ["S", "V"])
def test_a_silent_population_is_out_of_the_circuit(silent):
    """With r_S = 0 gamma does not depend on weights from S, nor with r_V = 0 on those from V."""
    index = POPULATIONS.index(silent)
    all_matrices = matrices(3000, 20.0, seed=2)
    rates = np.asarray(jax.vmap(final_rates)(all_matrices))
    chosen = np.flatnonzero((rates[:, index] < 1e-6) & (rates[:, 0] > 1e-3))[:20]
    assert len(chosen) == 20
    changed = all_matrices[chosen].copy()
    changed[:, :, index] = 0.0
    settled = np.asarray(jax.vmap(final_rates)(changed))
    # They agree where the population was silent all along, but for its start at one.
    close = np.abs(settled[:, 0] - rates[chosen, 0]) < 1e-3
    assert close.mean() > 0.8
