"""Which fits follow gradients of the circuit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from numpyro_dsn import DualNewton, PenaltyMethod, behavior
from numpyro_dsn.build import build_problem
from numpyro_dsn.constraints import Moments
from numpyro_dsn.program import read
from numpyro_dsn.solver.gradients import MAX_BY_WEIGHTS, should_follow_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIM = MAX_BY_WEIGHTS + 1


def normal(dim=DIM):
    numpyro.sample("z", dist.Normal(np.zeros(dim), 1.0).to_event(1))


def improper(dim=DIM):
    support = constraints.real_vector
    numpyro.sample("z", dist.ImproperUniform(support, (), (dim,)))


def of_square(function):
    """Statements about a function of the squared length."""

    def statements(sites):
        behavior("square", function((sites["z"] ** 2).sum()), Moments(1.0))

    return statements


def call_back(square):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(lambda value: value, shape, square, vmap_method="expand_dims")


def one_of_two(square):
    return jnp.stack([square, jnp.round(square)])


@pytest.mark.filterwarnings("ignore:The prior of")
@pytest.mark.parametrize(
    ("model", "function", "expected"),
    [
        (normal, lambda square: square, True),
        (improper, lambda square: square, True),
        (partial(normal, MAX_BY_WEIGHTS), lambda square: square, False),
        (normal, jnp.round, False),
        (normal, lambda square: jax.nn.sigmoid(40 * (square - 30)), False),
        (normal, call_back, False),
    ],
    ids=["many latents", "improper", "few latents", "rounded", "flat and rare", "callback"],
)
def test_gradients_are_followed_where_there_are_some(model, function, expected):
    program = read(jax.random.key(0), model, of_square(function), (), {})
    assert should_follow_gradients(program, (), {}) is expected


def test_every_statistic_must_have_a_gradient():
    def statements(sites):
        behavior("both", one_of_two((sites["z"] ** 2).sum()), Moments(np.ones(2)))

    program = read(jax.random.key(0), normal, statements, (), {})
    assert not should_follow_gradients(program, (), {})


@pytest.mark.parametrize(
    ("function", "method", "follows", "flow"),
    [
        (lambda square: square, DualNewton(), True, "GuideFlow"),
        (call_back, DualNewton(), False, "CubeFlow"),
        (lambda square: square, PenaltyMethod(), False, "GuideFlow"),
    ],
    ids=["gradients", "callback", "penalty"],
)
def test_default_flow(function, method, follows, flow):
    program = read(jax.random.key(0), normal, of_square(function), (), {})
    problem = build_problem(program, None, method, (10, 10), None, ((), {}))
    assert problem.follows_gradients is follows
    assert type(problem.flow).__name__ == flow


@pytest.mark.parametrize("kind", ["decision", "integer"])
def test_integer_statistics_of_many_latents_are_fitted_by_weights(kind):
    """They have no gradient, and nothing raises."""

    def statements(sites):
        z = sites["z"]
        value = z[0] + z[1] > 1 if kind == "decision" else jnp.floor(10 * z[0]).astype(int)
        behavior("f", value, Moments(0.8))

    program = read(jax.random.key(0), normal, statements, (), {})
    assert not should_follow_gradients(program, (), {})
