"""Maximum-entropy problems with a known answer: entropy, moments and natural parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_dsn import behavior
from numpyro_dsn.constraints import AtMost, Constraint, Covariance, Moments


class ClosedForm(NamedTuple):
    """A problem on one site `z`.

    The density is exp(eta . T) on the support; T is that of the constraint. `natural_parameters`
    are exact, and zero where a constraint is not active.
    """

    prior: dist.Distribution
    statistic: Callable[[Any], Any]
    constraint: Constraint
    entropy: float
    natural_parameters: np.ndarray

    def model(self):
        numpyro.sample("z", self.prior)

    def behavior(self, sites):
        behavior("f", self.statistic(sites["z"]), self.constraint)


SIGMA = np.array([[1.0, 0.6], [0.6, 2.0]])
PRECISION = np.linalg.inv(SIGMA)


def box(low, high, size=None):
    if size is None:
        return dist.Uniform(low, high)
    return dist.Uniform(low * jnp.ones(size), high).to_event(1)


CLOSED_FORMS = {
    "gaussian": ClosedForm(
        prior=box(-12.0, 12.0, 2),
        statistic=lambda z: z,
        constraint=Covariance(np.array([1.0, -0.5]), SIGMA),
        entropy=np.log(2 * np.pi * np.e) + 0.5 * np.log(np.linalg.det(SIGMA)),
        # T has each product of deviations once, so the off-diagonal counts twice.
        natural_parameters=-np.array(
            [0, 0, PRECISION[0, 0] / 2, PRECISION[0, 1], PRECISION[1, 1] / 2]
        ),
    ),
    "uniform": ClosedForm(
        prior=dist.Uniform(jnp.array([-1.0, 0.0]), jnp.array([1.0, 5.0])).to_event(1),
        statistic=lambda z: z[0],
        constraint=AtMost(0.5),
        entropy=np.log(2 * 5),
        natural_parameters=np.zeros(1),
    ),
    "exponential": ClosedForm(
        prior=box(0.0, 40.0),
        statistic=lambda z: z,
        constraint=Moments(2.0),
        entropy=1 + np.log(2.0),
        natural_parameters=np.array([-0.5]),
    ),
    "truncated exponential": ClosedForm(
        prior=box(0.0, 1.0),
        statistic=lambda z: z,
        constraint=Moments(0.3),
        entropy=-0.2528455630041859,
        natural_parameters=np.array([-2.6721038552733853]),
    ),
    "gamma": ClosedForm(
        prior=box(0.0, 40.0),
        statistic=lambda z: jnp.stack([z, jnp.log(z)]),
        constraint=Moments(np.array([2.0, 0.4])),
        entropy=1.5983029805476612,
        natural_parameters=np.array([-0.9274569714920565, 0.8549139429841133]),
    ),
    "dirichlet": ClosedForm(
        prior=dist.Dirichlet(jnp.ones(3)),
        statistic=jnp.log,
        constraint=Moments(
            np.array([-2.283333333333333, -1.2833333333333332, -0.7833333333333333])
        ),
        entropy=-1.2443445622221003,
        natural_parameters=np.array([0.0, 1.0, 2.0]),
    ),
    "laplace": ClosedForm(
        prior=box(-10.0, 10.0),
        statistic=jnp.abs,
        constraint=Moments(0.5),
        entropy=1.0,
        natural_parameters=np.array([-2.0]),
    ),
    "log-normal": ClosedForm(
        prior=box(0.0, 40.0),
        statistic=jnp.log,
        constraint=Moments(0.2, std=0.5),
        entropy=0.9257913526447274,
        # About the target mean: eta_1 + 2 * 0.2 * eta_2 of the raw moments, and eta_2.
        natural_parameters=np.array([-1.0, -2.0]),
    ),
    "isotropic": ClosedForm(
        prior=box(-6.0, 6.0, 10),
        statistic=lambda z: jnp.sum(z**2),
        constraint=Moments(5.0),
        entropy=10.723649429247,
        natural_parameters=np.array([-1.0]),
    ),
    "double well": ClosedForm(
        prior=box(-5.0, 5.0),
        statistic=lambda z: jnp.stack([z**2, z**4]),
        constraint=Moments(np.array([1.0, 1.5])),
        entropy=1.1417119770124218,
        natural_parameters=np.array([2.0319615176817414, -0.8439871725605802]),
    ),
}
