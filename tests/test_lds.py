"""The 2-D linear system: eigenvalues against NumPy, and the exact maximum of the entropy."""

import os
import subprocess
import sys
from pathlib import Path

import arviz
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from models import lds
from numpyro_dsn.program import read

ROOT = Path(__file__).parents[1]


def eigenvalue(a):
    """Real and absolute imaginary part of the eigenvalue with the largest real part."""
    values = np.linalg.eigvals(np.reshape(a, (-1, 2, 2)))
    leading = np.take_along_axis(values, values.real.argmax(-1)[:, None], -1)[:, 0]
    return leading.real, np.abs(leading.imag)


@pytest.fixture(scope="module")
def value_and_gradient():
    both = jax.vmap(lds.leading_eigenvalue), jax.vmap(jax.jacfwd(lds.leading_eigenvalue))
    backward = jax.vmap(jax.jacrev(lds.leading_eigenvalue))
    return jax.jit(lambda a: (both[0](a), both[1](a), backward(a)))


# The eigenvalue ----------------------------------------------------------------------------------


def test_leading_eigenvalue_is_that_of_numpy():
    a = np.random.default_rng(0).uniform(-10, 10, (500, 4)).astype(np.float32)
    with jax.enable_x64(True):
        growth, angular = jax.vmap(lds.leading_eigenvalue)(jnp.asarray(a, float))
    real, imaginary = eigenvalue(a.astype(float))
    assert 100 < np.sum(imaginary > 0) < 400  # both kinds are there
    np.testing.assert_allclose(growth, real, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(angular, imaginary, rtol=1e-9, atol=1e-9)


def test_leading_eigenvalue_scales_with_the_time_constant():
    a = jnp.array([1.0, 4.0, -9.0, 0.5])
    growth, angular = lds.leading_eigenvalue(a)
    slow_growth, slow_angular = lds.leading_eigenvalue(a, tau=0.1)
    # A ten times shorter time constant makes everything ten times faster.
    np.testing.assert_allclose([slow_growth, slow_angular], [10 * growth, 10 * angular], rtol=1e-5)


def test_pure_rotation_turns_at_its_rate():
    rate = 2 * np.pi
    growth, angular = lds.leading_eigenvalue(jnp.array([0.0, rate, -rate, 0.0]))
    np.testing.assert_allclose([growth, angular], [0, rate], rtol=1e-6)


DEGENERATE = np.array(
    [
        [0.0, 0.0, 0.0, 0.0],
        [3.0, 0.0, 0.0, 3.0],  # two equal eigenvalues
        [2.0, 1.0, -1.0, 0.0],  # and only one eigenvector
        [-7.0, 0.0, 5.0, -7.0],
    ]
)
CORNERS = lds.BOX * np.stack(np.meshgrid(*[[-1.0, 1.0]] * 4), -1).reshape(-1, 4)


def test_discriminants_of_the_degenerate_cases_are_zero():
    a1, a2, a3, a4 = DEGENERATE.T
    np.testing.assert_array_equal((a1 - a4) ** 2 + 4 * a2 * a3, 0)
    a1, a2, a3, a4 = CORNERS.T
    assert np.sum((a1 - a4) ** 2 + 4 * a2 * a3 == 0) == 4  # saturated draws can be degenerate


@pytest.mark.parametrize("where", ["degenerate", "corners", "prior"])
def test_gradients_are_finite(where, value_and_gradient):
    prior = np.random.default_rng(1).uniform(-lds.BOX, lds.BOX, (1000, 4))
    a = {"degenerate": DEGENERATE, "corners": CORNERS, "prior": prior}[where]
    values, forward, backward = value_and_gradient(jnp.asarray(a, jnp.float32))
    for array in jax.tree.leaves((values, forward, backward)):
        assert np.all(np.isfinite(array))
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_gradient_is_that_of_finite_differences(value_and_gradient):
    a = np.random.default_rng(2).uniform(-10, 10, (200, 4))
    discriminant = (a[:, 0] - a[:, 3]) ** 2 + 4 * a[:, 1] * a[:, 2]
    a = a[np.abs(discriminant) > 10]  # away from the kink
    _, gradients, _ = value_and_gradient(jnp.asarray(a, jnp.float32))
    step = 1e-5
    for entry in range(4):
        shift = step * np.eye(4)[entry]
        pairs = zip(eigenvalue(a + shift), eigenvalue(a - shift), strict=True)
        for gradient, (above, below) in zip(gradients, pairs, strict=True):
            np.testing.assert_allclose(
                gradient[:, entry], (above - below) / (2 * step), rtol=1e-3, atol=1e-3
            )


def test_gradient_through_the_root_is_zero_where_the_discriminant_is(value_and_gradient):
    _, (growth, angular), _ = value_and_gradient(jnp.asarray(DEGENERATE, jnp.float32))
    np.testing.assert_allclose(growth, np.tile([0.5, 0, 0, 0.5], (len(DEGENERATE), 1)))
    np.testing.assert_array_equal(angular, 0)


# What is asked -----------------------------------------------------------------------------------

TARGETS = {"paper": [0, 1, 1, 0.025], "published": [0, 0.25**2, 1, 0.1**2]}
"""Mean and variance of the growth rate in 1/s and of the frequency in Hz.

The published band, (0.2 pi)^2 (rad/s)^2, is 0.1^2 Hz^2. Paper: eq. 4; published: eLife 10:e56265.
"""


@pytest.mark.parametrize("name", lds.TARGETS)
def test_targets(name):
    program = read(jax.random.key(0), lds.circuit, lds.TARGETS[name], (), {})
    assert program.labels == [
        *("mean[growth rate]", "var[growth rate]", "mean[oscillation]", "var[oscillation]")
    ]
    np.testing.assert_allclose(program.lower, TARGETS[name], rtol=1e-6)
    np.testing.assert_array_equal(program.lower, program.upper)
    assert list(program.latents) == ["a"]
    support = program.latents["a"]["fn"].support
    assert support(jnp.array([10.0, -10.0, 0.0, 9.0]))
    assert not support(jnp.array([10.1, 0.0, 0.0, 0.0]))


def maximum_entropy(mean, growth, frequency):
    """Solve the dual over prior draws: H* = H(prior) + min log mean exp(eta . (T - mu)).

    Returns
    -------
    H* in nats and its standard error from the draws.
    """
    target = np.asarray(mean)
    statistics = np.stack([growth, growth**2, frequency, (frequency - 1) ** 2], -1) - target
    scale = statistics.std(0)
    centered = statistics / scale

    def log_mean_exp(eta):
        exponent = centered @ eta
        top = exponent.max()
        weights = np.exp(exponent - top)
        return top + np.log(weights.mean()), weights / weights.sum()

    eta = np.zeros(4)
    value, weights = log_mean_exp(eta)
    for _ in range(200):
        gradient = weights @ centered
        if np.abs(gradient).max() < 1e-8:
            break
        hessian = (centered * weights[:, None]).T @ centered - np.outer(gradient, gradient)
        step = -np.linalg.solve(hessian, gradient)
        size = 1.0
        while (trial := log_mean_exp(eta + size * step))[0] > value + 1e-4 * size * gradient @ step:
            size /= 2
        eta, (value, weights) = eta + size * step, trial
    np.testing.assert_allclose((weights @ statistics) / scale, 0, atol=1e-6)
    # At the minimum eta's error has no effect to first order; that of the mean remains.
    error = np.sqrt(np.sum((weights - 1 / len(weights)) ** 2))
    return 4 * np.log(2 * lds.BOX) + value, error


@pytest.fixture(scope="module")
def prior_statistics():
    """Growth rate in 1/s and frequency in Hz of prior draws, from eigenvalues by NumPy."""
    a = np.random.default_rng(3).uniform(-lds.BOX, lds.BOX, (2_000_000, 4))
    growth, angular = eigenvalue(a)
    return growth, angular / (2 * np.pi)


@pytest.mark.parametrize(
    ("name", "entropy", "tolerance"), [("paper", 8.840, 0.02), ("published", 7.04, 0.03)]
)
def test_exact_maximum_entropy(name, entropy, tolerance, prior_statistics):
    """The reference that fits are held against."""
    found, error = maximum_entropy(TARGETS[name], *prior_statistics)
    assert 3 * error < tolerance  # else the tolerance would be met, or missed, by chance
    assert abs(found - entropy) < tolerance


# The command -------------------------------------------------------------------------------------


def test_command(tmp_path):
    # The penalty method has the shortest epochs.
    flags = ["--as-published", "--num-epochs", "1", "--num-steps", "5", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "models.lds", *flags, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # compiling is what takes long
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "statistic"
    labels = ["mean[growth", "var[growth", "mean[oscillation]", "var[oscillation]"]
    assert [line.split()[0] for line in lines[1:5]] == labels
    assert any(line.startswith("entropy ") for line in lines)
    files = {"fit.nc", "pair.png", "optimization.png", "behavior.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert all(f"wrote {tmp_path / 'out' / name}" in lines for name in files)
    for name in files - {"fit.nc"}:
        height, width, _ = plt.imread(tmp_path / "out" / name).shape
        assert min(height, width) > 300
    data = arviz.from_netcdf(str(tmp_path / "out" / "fit.nc"), engine="h5netcdf")
    assert list(data["posterior"]["entry"].values) == ["a1", "a2", "a3", "a4"]
    real, imaginary = eigenvalue(np.asarray(data["posterior"]["a"])[0].astype(float))
    predictive = data["posterior_predictive"]
    # Near a zero discriminant its rounding error of float32 matters most: sqrt(400 * 2^-23).
    tolerance = 4 * np.sqrt(400 * 2.0**-23)
    np.testing.assert_allclose(predictive["growth"][0], real, atol=tolerance)
    np.testing.assert_allclose(predictive["frequency"][0], imaginary / (2 * np.pi), atol=tolerance)
