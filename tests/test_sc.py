"""Superior colliculus: modes, trials against plain NumPy, responses, and what is asked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers

from models import sc
from models import sc_simulator as simulator
from models.sc_simulator import DRAFT, SUCCESSOR, Inactivation
from numpyro_dsn.program import read

KNOWN = np.array([-0.59, -4.14, -1.37, -1.45], np.float32)
"""sW, vW, hW, dW: the mean of circuits with an accuracy of 74 % in both tasks."""

OTHER_TASK = [1, 0, 3, 2]
OTHER_SIDE = [3, 2, 1, 0]


def random_weights(num_weights, number, seed=0):
    return np.random.default_rng(seed).uniform(-5, 5, (number, num_weights)).astype(np.float32)


def matrices(z):
    build = simulator.symmetric_weight_matrix if z.shape[-1] == 4 else simulator.weight_matrix
    return np.asarray(jax.vmap(build)(z))


# Weights and modes -------------------------------------------------------------------------------


def test_every_weight_has_its_place():
    s_p, s_a, v_pa, v_ap, d_pa, d_ap, h_p, h_a = z = np.arange(1.0, 9.0, dtype=np.float32)
    published = [  # rows and columns LP, LA, RP, RA
        [s_p, v_pa, h_p, d_pa],
        [v_ap, s_a, d_ap, h_a],
        [h_p, d_pa, s_p, v_pa],
        [d_ap, h_a, v_ap, s_a],
    ]
    order = [["LP", "LA", "RP", "RA"].index(unit) for unit in simulator.UNITS]
    expected = np.array(published)[np.ix_(order, order)]
    np.testing.assert_array_equal(simulator.weight_matrix(z), expected)


@pytest.mark.parametrize("num_weights", [4, 8])
def test_hemispheres_are_alike(num_weights):
    weights = matrices(random_weights(num_weights, 5))
    np.testing.assert_array_equal(weights[:, OTHER_SIDE][:, :, OTHER_SIDE], weights)
    alike = np.array_equal(weights[:, OTHER_TASK][:, :, OTHER_TASK], weights)
    assert alike == (num_weights == 4)


def test_modes_of_four_weights_are_fixed_eigenvectors():
    z = random_weights(4, 20)
    weights, vectors = matrices(z), simulator.MODE_VECTORS
    eigenvalues = np.asarray(jax.vmap(simulator.mode_eigenvalues)(weights))
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-12)
    driven = weights @ vectors.T
    np.testing.assert_allclose(driven, eigenvalues[:, None] * vectors.T[None], atol=1e-5)
    s, v, h, d = z.T
    by_hand = np.stack([s + v + h + d, s + v - h - d, s - v + h - d, s - v - h + d], -1)
    np.testing.assert_allclose(eigenvalues, by_hand, atol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(simulator.weights_of_eigenvalues)(eigenvalues), z, atol=1e-5
    )
    np.testing.assert_allclose(jax.vmap(simulator.task_mixing)(weights), 0, atol=1e-5)


def test_eigenvalues_of_eight_weights_are_those_of_numpy():
    weights = matrices(random_weights(8, 300)).astype(float)
    exact = np.linalg.eigvals(weights)
    assert 30 < np.sum(np.abs(exact.imag).max(-1) > 1e-6) < 270  # real ones and complex ones
    with jax.enable_x64(True):
        found = np.asarray(jax.vmap(simulator.mode_eigenvalues)(jnp.asarray(weights)))
    np.testing.assert_allclose(np.sort(found), np.sort(exact.real), atol=1e-6)


def test_modes_of_eight_weights_are_not_fixed():
    z = random_weights(8, 50)
    mixing = jax.vmap(simulator.task_mixing)(matrices(z))
    assert np.all(mixing > 0.1)
    z[:, 1::2] = z[:, ::2]  # tasks alike
    np.testing.assert_allclose(jax.vmap(simulator.task_mixing)(matrices(z)), 0, atol=1e-5)
    symmetric = matrices(z[:, [0, 2, 6, 4]])
    np.testing.assert_allclose(symmetric, matrices(z))


# Trials ------------------------------------------------------------------------------------------


def numpy_trial(weights, task, protocol, inactivation, published_start=False):
    """One trial without noise, written from the equations, in float64."""
    times = 0.024 * np.arange(simulator.NUM_STEPS + 1)
    u = np.full(4, 0.5 * np.arctanh(2 * 0.1 - 1) + (-0.05 if published_start else 0.05))
    v = np.full(4, 0.1) * (1 - inactivation.strength * (inactivation.start <= 0))
    for t in times[1:].round(6):
        drive = np.full(4, protocol.constant)
        for unit, name in enumerate(("LP", "LA", "RA", "RP")):
            drive[unit] += protocol.pro_bias * (name[1] == "P")
            drive[unit] += protocol.rule * (name[1] == task[0]) * (t < 1.2)
            drive[unit] += protocol.choice * (t > 1.2)
            drive[unit] += protocol.light * (name[0] == "L") * (1.2 < t < protocol.light_end)
        u = u + 0.024 / 0.09 * (-u + weights @ v + drive)
        gain = 1 - inactivation.strength * (inactivation.start <= t <= inactivation.end)
        v = gain * (0.5 * np.tanh((u - 0.05) / 0.5) + 0.5)
    return v


def silent(protocol):
    return protocol._replace(noise=0.0, start_noise=0.0)


@pytest.mark.parametrize("protocol", [SUCCESSOR, DRAFT], ids=["successor", "draft"])
@pytest.mark.parametrize("period", [None, *simulator.PERIODS])
def test_trials_without_noise_are_those_of_numpy(protocol, period, rng_key):
    off = Inactivation(0.0 if period is None else 0.6, *simulator.PERIODS[period or "delay"])
    all_weights = 0.4 * matrices(random_weights(8, 6))  # weaker ones amplify rounding less
    simulate = jax.vmap(lambda w: simulator.simulate(rng_key, w, 2, silent(protocol), off))
    activity = np.asarray(simulate(all_weights))
    np.testing.assert_array_equal(activity[..., 0], activity[..., 1])
    for weights, v in zip(all_weights.astype(float), activity[..., 0], strict=True):
        for index, task in enumerate(simulator.TASKS):
            exact = numpy_trial(weights, task, protocol, off)
            np.testing.assert_allclose(v[:, index], exact, atol=1e-4)


def test_there_are_75_points_in_a_trial():
    assert simulator.NUM_STEPS + 1 == 75


def test_the_published_start_is_an_option(rng_key, monkeypatch):
    monkeypatch.setattr(simulator, "NUM_STEPS", 3)  # it is forgotten later
    weights = matrices(KNOWN[None])[0]
    quick = silent(SUCCESSOR)
    ends = [
        simulator.simulate(rng_key, weights, 1, quick, published_start=wrong)[:, 0, 0]
        for wrong in (False, True)
    ]
    for end, wrong in zip(ends, (False, True), strict=True):
        exact = numpy_trial(weights.astype(float), "Pro", quick, Inactivation(), wrong)
        np.testing.assert_allclose(end, exact, atol=1e-4)
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_tasks_differ_by_the_rule_alone(rng_key):
    weights = matrices(KNOWN[None])[0]
    fair = silent(SUCCESSOR)._replace(pro_bias=0.0)
    v = np.asarray(simulator.simulate(rng_key, weights, 1, fair))[..., 0]
    np.testing.assert_allclose(v[:, 1], v[OTHER_TASK, 0], atol=1e-5)


def test_without_light_nothing_tells_left_from_right(rng_key):
    weights = matrices(KNOWN[None])[0]
    dark = silent(SUCCESSOR)._replace(light=0.0)
    v = simulator.simulate(rng_key, weights, 3, dark)
    # Up to rounding, which the diag mode amplifies and the accuracy multiplies by 100.
    np.testing.assert_allclose(v, v[jnp.array(OTHER_SIDE)], atol=1e-5)
    np.testing.assert_allclose(sc.responses(v).accuracy, 0.5, atol=1e-3)


def test_gradients_are_finite(rng_key):
    def accuracy(z, key):
        weights = simulator.symmetric_weight_matrix(z)
        return sc.responses(simulator.simulate(key, weights, 4)).accuracy

    jacobian = jax.jit(jax.vmap(jax.jacrev(accuracy)))
    found = jacobian(random_weights(4, 100), jax.random.split(rng_key, 100))
    assert np.all(np.isfinite(found))
    assert np.any(found != 0)


# Responses ---------------------------------------------------------------------------------------


def test_responses_by_hand():
    v = np.zeros((4, 2, 4), np.float32)
    v[0, 0], v[3, 0] = [1, 1, 1, 0], [0, 0, 0, 1]  # Pro: LP wins three times of four
    v[0, 1], v[3, 1] = [1, 0, 0.5, 0.2], [0, 1, 0.5, 0.6]  # Anti: RP should win
    found = sc.responses(jnp.asarray(v))
    np.testing.assert_allclose(found.accuracy, [0.75, (0 + 1 + 0.5 + 1) / 4], atol=1e-6)
    np.testing.assert_allclose(found.response, [0.75, 2.1 / 4], rtol=1e-6)
    np.testing.assert_allclose(found.contrast, [1, (1 + 1 + 0 + 0.16) / 4], rtol=1e-6)
    # The published form: the variance of a Bernoulli response minus that of this one.
    correct = np.stack([v[0, 0], v[3, 1]]).astype(float)
    mean = correct.mean(-1)
    np.testing.assert_allclose(found.indecision, mean * (1 - mean) - correct.var(-1), atol=1e-6)
    assert found.indecision[0] == 0
    assert found.indecision[1] > 0


@pytest.mark.parametrize("setting", sc.SETTINGS)
def test_responses_of_the_prior_are_in_range(setting, rng_key):
    setting = sc.SETTINGS[setting]

    def run(z, key):
        weights = matrices_of(z)
        return sc.responses(simulator.simulate(key, weights, 5, setting.protocol))

    four = setting.num_weights == 4
    matrices_of = simulator.symmetric_weight_matrix if four else simulator.weight_matrix
    z = random_weights(setting.num_weights, 200)
    found = jax.jit(jax.vmap(run))(z, jax.random.split(rng_key, 200))
    tops = {"indecision": 0.25, "accuracy_variance": 1.25 / 4, "response_variance": 1.25 / 4}
    for name, values in found._asdict().items():
        top = tops.get(name, 1.0)
        assert values.shape == (200, 2)
        # An unbiased estimate of a square can be negative, by the variance over five.
        least = -1.25 / 4 / 5 if name.endswith("square") else 0
        assert np.all((values >= least - 1e-6) & (values <= top + 1e-6))
    assert np.ptp(found.accuracy) == pytest.approx(1, abs=1e-3)


def test_noise_of_finite_trials_adds_to_the_variance(rng_key):
    """E[(f - mu)^2] of one circuit exceeds (E f - mu)^2 by s^2 / N, s^2 the variance of a trial."""
    weights, num_trials = matrices(KNOWN[None])[0], 25

    def accuracies(key, number, num_trials):
        run = lambda k: sc.responses(simulator.simulate(k, weights, num_trials)).accuracy  # noqa: E731
        return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(key, number)), float)

    one_key, many_key = jax.random.split(rng_key)
    trials = accuracies(one_key, 5000, 1)
    squares = (accuracies(many_key, 1000, num_trials) - trials.mean(0)) ** 2
    expected = trials.var(0) / num_trials
    spread = ((trials - trials.mean(0)) ** 2).std(0) / num_trials
    error = np.hypot(squares.std(0) / np.sqrt(len(squares)), spread / np.sqrt(len(trials)))
    np.testing.assert_array_less(np.abs(squares.mean(0) - expected), 4 * error)
    assert np.all(squares.mean(0) > 8 * error)  # so it can fail


# What is asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_trials", [2, 10])
def test_any_number_of_trials_asks_the_same_of_a_circuit(num_trials, rng_key):
    """E[(f - p)^2] of 200 trials, which is (E f - p)^2 + s^2 / 200, whatever is run."""
    weights, target = matrices(KNOWN[None])[0], 0.7

    def statistics(key):
        v = simulator.simulate(key, weights, num_trials)
        sites = sc.responses(v)._asdict()
        with handlers.trace() as trace:
            sc.accurate(sites, target)
        return [trace[name]["value"] for name in ("performance", "variance of performance")]

    keys = jax.random.split(rng_key, 100_000 // num_trials)
    accuracy, spread = (np.asarray(x, float) for x in jax.jit(jax.vmap(statistics))(keys))
    one_trial = jax.jit(
        jax.vmap(lambda k: sc.responses(simulator.simulate(k, weights, 1)).accuracy)
    )
    trials = np.asarray(one_trial(jax.random.split(jax.random.key(1), 50_000)), float)
    expected = (trials.mean(0) - target) ** 2 + trials.var(0) / 200
    slope = np.abs(2 * (trials.mean(0) - target)) * trials.std(0) / np.sqrt(len(trials))
    error = np.hypot(spread.std(0) / np.sqrt(len(spread)), slope)
    np.testing.assert_array_less(np.abs(spread.mean(0) - expected), 4 * error)
    # The plain square has the noise of the trials that are run, and would be found out.
    plain = ((accuracy - target) ** 2).mean(0)
    assert np.all(plain - expected > 8 * error)
    with pytest.raises(ValueError, match="at least 2"):
        sc.problem(num_trials=1)


def test_settings():
    program = read(jax.random.key(0), *sc.problem("successor"), (), {})
    assert program.is_stochastic
    assert len(program.labels) == 4
    np.testing.assert_allclose(program.lower, [0.75, 0.75, 0.075**2, 0.075**2], rtol=1e-6)
    program = read(jax.random.key(0), *sc.problem("draft", 0.6), (), {})
    bounds = [
        *zip([0.6, 0.6, 0.15**2, 0.15**2], [0.6, 0.6, 0.15**2, 0.15**2], strict=True),
        *[(-np.inf, 0.05)] * 2,
        *[(0.95, np.inf)] * 2,
    ]
    np.testing.assert_allclose(np.stack([program.lower, program.upper], -1), bounds, rtol=1e-6)
    assert program.latents["z"]["value"].shape == (8,)


def test_other_numbers_of_weights_are_refused():
    with pytest.raises(ValueError, match="must be 4 or 8, but is 5"):
        read(jax.random.key(0), lambda: sc.circuit(5, 2), sc.accurate, (), {})


def test_the_drafts_equalities_stand_at_the_ends_of_the_statistics(rng_key):
    """E[v (1 - v)] = 0 and a squared difference of 1: no circuit is beyond, few are there."""
    run = lambda z, key: sc.responses(  # noqa: E731
        simulator.simulate(key, simulator.weight_matrix(z), 10, DRAFT)
    )
    z = random_weights(8, 1000)
    found = jax.jit(jax.vmap(run))(z, jax.random.split(rng_key, 1000))
    indecision, contrast = np.asarray(found.indecision), np.asarray(found.contrast)
    drafted = read(jax.random.key(0), partial(sc.circuit, 8, 2), sc.decided_as_drafted, (), {})
    lowest, highest = np.split(np.asarray(drafted.lower[4:]), 2)
    np.testing.assert_allclose(indecision.min(0), lowest, atol=1e-3)
    np.testing.assert_allclose(contrast.max(0), highest, atol=1e-3)
    assert np.all((indecision >= lowest) & (contrast <= highest))
    eased = read(jax.random.key(0), partial(sc.circuit, 8, 2), sc.decided, (), {})
    most, least = np.asarray(eased.upper[4:6]), np.asarray(eased.lower[6:])
    assert np.sum(np.all((indecision < most) & (contrast > least), axis=-1)) > 5
