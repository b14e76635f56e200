"""The first sentence that applies to a fit, and what no weights of its circuits can meet."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from weighted_draws import draws_of, pool_of, targets_of

from numpyro_dsn.certificate import Certificate, Tolerances, infeasible
from numpyro_dsn.certificate.verdict import verdict

TOLERANCES = Tolerances(violation=0.02, gap=0.05)
GOOD = Certificate(
    natural_parameters={"f": 1.0},
    dual_bound=0.0,
    gap=0.01,
    gap_se=0.005,
    acceptance=1.0,
    flow_gap=0.01,
    stray_fraction=0.0,
    stray_gap=0.0,
    ess=1e4,
    prior_ess=1e3,
    pareto_k=0.2,
    missed_mass=0.01,
    missed_mass_se=0.001,
    bounded_mass=0.0,
    verdict="",
)


def said(violation=0.0, unmet=None, **numbers):
    measured = SimpleNamespace(violation=np.array([0.0, violation]))
    return verdict(GOOD._replace(**numbers), measured, unmet, TOLERANCES, ["f", "g"])


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({}, "Close to maximum entropy: within 0.010 nats of it, and covers all but 1.0%"),
        ({"violation": 0.05}, "Close to maximum entropy: within 0.010 nats of it, but g is off"),
        ({"violation": -0.3}, "The constraints are not met: g is off by 0.30 of the unit"),
        ({"missed_mass": np.nan, "missed_mass_se": np.nan}, "Close to maximum entropy"),
        (
            {"missed_mass": 0.2, "missed_mass_se": 0.02},
            "Mass is missing: the fit does not cover 20%",
        ),
        ({"missed_mass": 0.2, "missed_mass_se": 0.1}, "Close"),
        ({"bounded_mass": 0.02}, "The optimum has 2.0% of its mass where a statistic is bounded"),
        ({"gap": 0.04, "gap_se": 0.02}, "Close"),
        ({"gap": 0.08, "gap_se": 0.02}, "Perhaps not at maximum entropy"),
        ({"gap": 0.08, "gap_se": 0.01}, "Not at maximum entropy: 0.08 nats from it."),
        ({"gap": 0.08, "gap_se": 0.01, "stray_gap": 0.05}, "Not at maximum entropy: 0.08 nats"),
        ({"gap": 0.04, "gap_se": 0.06}, "Cannot tell"),
        ({"gap_se": np.nan}, "Cannot tell"),
        ({"unmet": "f is below its target"}, "Infeasible on the simulated circuits: f is below"),
    ],
)
def test_verdict(numbers, expected):
    assert said(**numbers).startswith(expected)
    assert ("of which" in said(**numbers)) == ("stray_gap" in numbers)


def unmet(statistics, lower, upper=None, later=None, labels=("f", "g")):
    """What is said of draws of the prior and, perhaps, of later flows."""
    blocks = [
        draws_of(jnp.zeros((len(one), 1)), jnp.asarray(one)) for one in [statistics, *(later or [])]
    ]
    pool = pool_of(blocks, [lambda flat: jnp.zeros(len(flat))] * len(blocks))
    return infeasible(pool, targets_of(lower, upper), list(labels), len(blocks) - 1)


UNIT = np.random.default_rng(0).uniform(size=(1000, 1))


@pytest.mark.parametrize(
    ("statistics", "lower", "upper", "expected"),
    [
        (UNIT, [0.7], None, None),
        (UNIT, [1.5], None, "f is below its target in all of them"),
        (UNIT, [1.5], [np.inf], "f is below its target in all of them"),
        ((UNIT - 0.5) ** 2, [-0.1], None, "f is above its target in all of them"),
        (np.hstack([UNIT, UNIT**2]), [0.5, 0.2], None, "f and g cannot be met together"),
        (np.hstack([UNIT, UNIT**2]), [0.5, 0.3], None, None),
    ],
    ids=["met", "mean", "bound", "variance", "less than the least variance", "enough variance"],
)
def test_what_cannot_be_met(statistics, lower, upper, expected):
    assert unmet(statistics, lower, upper) == expected


def test_a_fit_on_its_way_is_not_infeasible(rng):
    """Its flows' means fall from 10 to 8 and have tails; zero is asked, and nothing is below 3."""
    prior, first, last = (mean + rng.normal(size=(1000, 1)) for mean in (12.0, 10.0, 8.0))
    assert unmet(prior, [0.0], later=[first, last]) is None
    assert unmet(prior, [0.0], later=[first, first]) == "f is above its target in all of them"


def test_draws_that_failed_do_not_make_it_feasible():
    statistics = jnp.asarray(UNIT).at[0].set(3.0)
    draws = draws_of(jnp.zeros((1000, 1)), statistics, finite=jnp.arange(1000) > 0)
    pool = pool_of([draws], [lambda flat: jnp.zeros(len(flat))])
    assert infeasible(pool, targets_of([1.5]), ["f"], 0) == "f is below its target in all of them"
    none = pool._replace(draws=pool.draws._replace(finite=jnp.zeros((1, 1000), bool)))
    assert infeasible(none, targets_of([1.5]), ["f"], 0) is None
