"""Curvature against closed forms, from the flow and from the exponential family."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from closed_forms import CLOSED_FORMS, PRECISION, SIGMA
from exact_fits import fit_with
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal

from numpyro_dsn.constraints import Moments
from numpyro_dsn.sensitivity import curvature, tilted_curvature
from numpyro_dsn.sensitivity.coordinates import (
    element_labels,
    to_constrained,
    to_unconstrained,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

CENTER = np.array([0.5, -1.0, 2.0])
ROOT = np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.0], [-0.4, 0.2, 2.0]])
COVARIANCE = ROOT @ ROOT.T


def unbounded():
    """Two sites, declared against the alphabet."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    a = numpyro.sample("a", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.deterministic("total", a.sum() + w)


ASKED = {"total": Moments(0.0)}


@pytest.fixture(scope="module")
def gaussian():
    """The normal distribution of mean CENTER and covariance COVARIANCE over w, a[0], a[1]."""
    guide = AutoMultivariateNormal(unbounded)
    return fit_with(unbounded, ASKED, guide, auto_loc=CENTER, auto_scale_tril=ROOT)


# The flow's --------------------------------------------------------------------------------------


def test_curvature_of_a_gaussian(gaussian):
    z = CENTER + np.array([[0.0, 0.0, 0.0], [0.3, -0.2, 1.0]])
    found = curvature(gaussian, {"a": z[:, 1:], "w": z[:, 0]})
    precision = np.linalg.inv(COVARIANCE)
    assert found.labels == ["w", "a[0]", "a[1]"]
    assert found.hessian.shape == (2, 3, 3)
    for hessian in found.hessian:
        np.testing.assert_allclose(hessian, -precision, rtol=1e-3, atol=1e-3)
    expected = -(z - CENTER) @ precision
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-3, atol=1e-4)


def test_directions_are_those_of_the_covariance(gaussian):
    found = curvature(gaussian, {"a": CENTER[1:], "w": CENTER[0]})
    variances, vectors = np.linalg.eigh(COVARIANCE)  # the smallest variance is the most sensitive
    np.testing.assert_allclose(found.eigenvalues, -1 / variances, rtol=1e-3)
    overlap = np.abs(found.eigenvectors @ vectors)
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-3)
    np.testing.assert_array_equal(found.sensitive, found.eigenvectors[0])
    np.testing.assert_array_equal(found.degenerate, found.eigenvectors[-1])
    main = np.take_along_axis(
        found.eigenvectors, np.abs(found.eigenvectors).argmax(1)[:, None], axis=1
    )
    assert np.all(main > 0)
    rebuilt = found.eigenvectors.T @ np.diag(found.eigenvalues) @ found.eigenvectors
    np.testing.assert_allclose(rebuilt, found.hessian, rtol=1e-4, atol=1e-3)


def test_eigenvalues_are_ordered_by_magnitude():
    """On a saddle signs differ."""
    from numpyro_dsn.sensitivity._curvature import _eigen

    values, vectors = _eigen(np.diag([0.1, -3.0, 2.0]))
    np.testing.assert_allclose(values, [-3.0, 2.0, 0.1])
    np.testing.assert_allclose(vectors, np.eye(3)[[1, 2, 0]])


LOW, HIGH, LOC, SCALE = -2.0, 3.0, 0.4, 0.7


def bounded():
    numpyro.sample("z", dist.Uniform(LOW, HIGH))


def logit_normal(z):
    """Log density and its derivatives of LOW + (HIGH - LOW) sigmoid(u), u ~ N(LOC, SCALE^2)."""
    share, width = (z - LOW) / (HIGH - LOW), HIGH - LOW
    u = np.log(share / (1 - share))
    slope = 1 / (share * (1 - share) * width)  # du/dz
    bend = (2 * share - 1) / (share * (1 - share)) ** 2 / width**2
    third = (2 * share * (1 - share) + 2 * (2 * share - 1) ** 2) / (
        share * (1 - share) * width
    ) ** 3
    first = -(u - LOC) / SCALE**2 * slope + bend / slope
    second = -(slope**2 + (u - LOC) * bend) / SCALE**2 + third / slope - (bend / slope) ** 2
    return first, second


def test_curvature_on_a_box_is_that_of_the_constrained_space():
    result = fit_with(
        bounded,
        {"z": Moments(0.5)},
        AutoDiagonalNormal(bounded),
        auto_loc=[LOC],
        auto_scale=[SCALE],
    )
    z = np.array([-1.5, 0.2, 1.0, 2.7])
    found = curvature(result, {"z": z})
    first, second = logit_normal(z)
    np.testing.assert_allclose(found.gradient[:, 0], first, rtol=1e-3)
    np.testing.assert_allclose(found.hessian[:, 0, 0], second, rtol=1e-3)
    step = 1e-5  # the closed form itself, by differences of its first derivative
    difference = (logit_normal(z + step)[0] - logit_normal(z - step)[0]) / (2 * step)
    np.testing.assert_allclose(second, difference, rtol=1e-6)


# The exponential family's ------------------------------------------------------------------------


def untrained(name):
    problem = CLOSED_FORMS[name]
    result = fit_with(problem.model, problem.behavior, AutoDiagonalNormal(problem.model))
    eta = dict(zip(result.fit.program.labels, problem.natural_parameters, strict=True))
    return result, eta


def test_tilted_curvature_of_a_gaussian():
    result, eta = untrained("gaussian")
    z = np.array([[1.0, -0.5], [2.0, 3.0]])
    found = tilted_curvature(result, {"z": z}, eta)
    np.testing.assert_allclose(found.hessian, np.tile(-PRECISION, (2, 1, 1)), rtol=1e-3)
    expected = -(z - z[0]) @ PRECISION
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-3, atol=1e-5)
    variances, vectors = np.linalg.eigh(SIGMA)
    np.testing.assert_allclose(found.eigenvalues[0], -1 / variances, rtol=1e-3)
    np.testing.assert_allclose(np.abs(found.eigenvectors[0] @ vectors), np.eye(2), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("truncated exponential", lambda z, eta: eta[0] + 0 * z, lambda z, eta: 0 * z),
        ("gamma", lambda z, eta: eta[0] + eta[1] / z, lambda z, eta: -eta[1] / z**2),
        (
            "double well",
            lambda z, eta: 2 * eta[0] * z + 4 * eta[1] * z**3,
            lambda z, eta: 2 * eta[0] + 12 * eta[1] * z**2,
        ),
    ],
)
def test_tilted_curvature_of_truncated_forms(name, first, second):
    result, eta = untrained(name)
    z = np.array([0.1, 0.35, 0.8])
    found = tilted_curvature(result, {"z": z}, eta)
    exact = CLOSED_FORMS[name].natural_parameters
    np.testing.assert_allclose(found.gradient[:, 0], first(z, exact), rtol=1e-3)
    np.testing.assert_allclose(found.hessian[:, 0, 0], second(z, exact), rtol=1e-3, atol=1e-6)


def noisy():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    noise = jax.random.normal(numpyro.prng_key())
    numpyro.deterministic("f", z**2 * (1 + noise))


def test_tilted_curvature_averages_noise():
    """The mean of z^2 (1 + noise) bends by 2 (1 + mean noise); the prior by -1."""
    result = fit_with(noisy, {"f": Moments(1.0)}, AutoDiagonalNormal(noisy))
    replicates = 400
    found = tilted_curvature(result, {"z": 0.3}, {"mean[f]": -0.5}, replicates)
    assert abs(found.hessian[0, 0] - (-1 - 1)) < 4 / np.sqrt(replicates)


# Requirements ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [curvature, tilted_curvature])
@pytest.mark.parametrize("z", [3.5, HIGH, np.nan, [0.0, LOW]])
def test_points_outside_the_support(function, z):
    result = fit_with(bounded, {"z": Moments(0.5)}, AutoDiagonalNormal(bounded))
    with pytest.raises(ValueError, match=r"Site 'z' must lie inside its support.* but is"):
        function(result, {"z": z})


def test_sites_that_do_not_exist(gaussian):
    with pytest.raises(ValueError, match="Site 'w' is missing"):
        curvature(gaussian, {"a": CENTER[1:], "v": 1.0})


def test_elements_that_depend_on_each_other():
    problem = CLOSED_FORMS["dirichlet"]
    result = fit_with(problem.model, problem.behavior, AutoDiagonalNormal(problem.model))
    with pytest.raises(ValueError, match="elements of site 'z' depend on each other"):
        curvature(result, {"z": np.ones(3) / 3})


def test_natural_parameters_have_the_labels_of_the_statistics(gaussian):
    with pytest.raises(ValueError, match=r"labels \['total'\]; give .*'mean\[total\]'"):
        tilted_curvature(gaussian, {"a": CENTER[1:], "w": CENTER[0]}, {"total": 1.0})


def test_elements_line_up_with_the_unconstrained_vector(gaussian):
    """The conditional modes hold an element by its index in the unconstrained vector."""
    z = jnp.array([1.0, 2.0, 3.0])
    program = gaussian.fit.program
    np.testing.assert_allclose(to_unconstrained(program, z), z)
    np.testing.assert_allclose(to_constrained(program, z), z)
    assert element_labels(program) == ["w", "a[0]", "a[1]"]
