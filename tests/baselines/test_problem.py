"""What engines refuse: missing packages, missing natural parameters, missing tolerances."""

import sys
from types import SimpleNamespace

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.autoguide import AutoBNAFNormal, AutoDiagonalNormal

from numpyro_dsn import DSN, PenaltyMethod, baselines
from numpyro_dsn.constraints import AtLeast, Covariance, Moments

KEY = jax.random.key(0)
TILTED = [baselines.nuts, baselines.smc]
ABC = [baselines.smc_abc, baselines.rejection]


def circuit():
    z = numpyro.sample("z", dist.Uniform(np.zeros(2), np.ones(2)).to_event(1))
    numpyro.deterministic("f", z.sum())


def problem(constraint=None, **kwargs):
    return baselines.problem(circuit, {"f": constraint or Moments(1.0, std=0.1)}, **kwargs)


def untrained(guide):
    dsn = DSN(circuit, {"f": Moments(1.0)}, guide, method=PenaltyMethod(num_batches=10))
    with pytest.warns(match="not met yet"):
        return dsn.run(KEY, num_epochs=0, progress_bar=False)


@pytest.mark.parametrize("engine", [baselines.smc, baselines.smc_abc])
def test_missing_blackjax_names_the_extra(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ImportError, match=r"pip install numpyro-dsn\[baselines\]"):
        engine(KEY, problem(natural_parameters=[1.0, 1.0]))


@pytest.mark.parametrize("engine", TILTED)
def test_tilted_model_needs_natural_parameters(engine):
    with pytest.raises(ValueError, match="needs natural parameters"):
        engine(KEY, problem())


@pytest.mark.parametrize("engine", TILTED + ABC)
def test_source_must_be_a_fit_or_a_problem(engine):
    with pytest.raises(TypeError, match=r"baselines\.problem"):
        engine(KEY, circuit)


@pytest.mark.usefixtures("quick_compilation", "numpyro_ranks")
@pytest.mark.parametrize("engine", TILTED)
def test_fit_without_a_certificate_is_refused(engine):
    without_inverse = untrained(AutoBNAFNormal(circuit, num_flows=1, hidden_factors=[2]))
    with pytest.raises(ValueError, match="has no inverse"):
        engine(KEY, without_inverse)


@pytest.mark.usefixtures("quick_compilation")
def test_fit_whose_certificate_knows_nothing_is_refused():
    fit = untrained(AutoDiagonalNormal(circuit))
    # As of a fit that diverged; to compute one takes longer than all other tests.
    fit.__dict__["certificate"] = SimpleNamespace(natural_parameters={"mean[f]": np.nan})
    with pytest.raises(ValueError, match="certificate"):
        baselines.nuts(KEY, fit)


@pytest.mark.parametrize(
    "given", [[1.0], [1.0, np.nan], {"mean[f]": 1.0}, {"mean[f]": 1.0, "variance": 2.0}]
)
def test_natural_parameters_must_fit_the_constraints(given):
    with pytest.raises(ValueError, match=r"var\[f\]"):
        problem(natural_parameters=given)


def test_natural_parameters_by_label_are_ordered():
    found = problem(natural_parameters={"var[f]": 2.0, "mean[f]": 1.0})
    np.testing.assert_array_equal(found.natural_parameters, [1.0, 2.0])


def test_nuts_needs_steps_to_adapt():
    with pytest.raises(ValueError, match="num_warmup"):
        baselines.nuts(KEY, problem(natural_parameters=[1.0, 1.0]), num_warmup=0)


def test_neutra_needs_a_fit():
    with pytest.raises(ValueError, match="DSNResult"):
        baselines.nuts(KEY, problem(natural_parameters=[1.0, 1.0]), neutra=True)


@pytest.mark.parametrize("engine", ABC)
@pytest.mark.parametrize("constraint", [Moments(1.0), AtLeast(1.0)])
def test_targets_without_a_deviation_need_a_tolerance(engine, constraint):
    with pytest.raises(ValueError, match="tolerance={'f'"):
        engine(KEY, problem(constraint))


@pytest.mark.parametrize("engine", ABC)
@pytest.mark.parametrize(
    ("tolerance", "match"),
    [({"g": 1.0}, "'g'"), ({"f": 0.0}, "positive"), ({"f": np.ones(3)}, "elements")],
)
def test_tolerance_must_fit_the_behavior(engine, tolerance, match):
    with pytest.raises(ValueError, match=match):
        engine(KEY, problem(), tolerance=tolerance)


def test_rejection_that_keeps_nothing_says_how_near_it_came():
    with pytest.raises(ValueError, match="nearest is at"):
        baselines.rejection(KEY, problem(Moments(3.0, std=0.01)), num_simulations=100)


def improper():
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.deterministic("f", z)


@pytest.mark.filterwarnings("ignore:The prior of:numpyro_dsn.DSNWarning")
@pytest.mark.parametrize("engine", [baselines.smc, *ABC])
def test_improper_prior_cannot_be_started_from(engine):
    source = baselines.problem(improper, {"f": Moments(0.0, std=1.0)}, natural_parameters=[0, -0.5])
    with pytest.raises(ValueError, match="improper"):
        engine(KEY, source)


@pytest.mark.filterwarnings("ignore:The prior of:numpyro_dsn.DSNWarning")
def test_nuts_takes_an_improper_prior(rng_key):
    source = baselines.problem(improper, {"f": Moments(0.0, std=1.0)}, natural_parameters=[0, -0.5])
    data = baselines.nuts(rng_key, source, num_warmup=200, num_samples=500)
    z = np.asarray(data["posterior"]["z"])
    assert abs(z.std() - 1.0) < 0.15


def vector_circuit():
    z = numpyro.sample("z", dist.Normal(np.zeros(2), np.ones(2)).to_event(1))
    numpyro.deterministic("f", z)


def test_covariance_gives_each_element_its_tolerance():
    cov = np.array([[0.04, 0.0], [0.0, 0.25]])
    source = baselines.problem(vector_circuit, {"f": Covariance(np.array([0.5, -0.5]), cov)})
    data = baselines.rejection(KEY, source, num_simulations=5000)
    f = np.asarray(data["posterior"]["f"])
    assert np.all(np.abs(f - [0.5, -0.5]) <= [0.2 + 1e-6, 0.5 + 1e-6])
    assert np.ptp(f[..., 1]) > 0.8


def test_draws_of_another_engine_have_the_same_layout():
    source, values = problem(), {"z": np.full((2, 10, 2), 0.5)}
    data = baselines.from_draws(KEY, source, values, "NPE", num_simulations=7)
    expected = baselines.rejection(KEY, source, num_simulations=1000)
    assert list(data["posterior"].data_vars) == list(expected["posterior"].data_vars)
    assert data["posterior"]["z"].dims == expected["posterior"]["z"].dims
    np.testing.assert_array_equal(data["posterior"]["f"], np.ones((2, 10)))
    assert data.attrs["inference_method"] == "NPE"
    with pytest.raises(ValueError, match="two, chains and draws"):
        baselines.from_draws(KEY, source, {"z": np.full((10, 2), 0.5)}, "NPE")
