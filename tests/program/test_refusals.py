"""Every structural error, raised before anything is compiled."""

import itertools
import traceback
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.primitives import mutable
from programs import ANY_Z, ZERO, draw_z, parametric, prior, read_quietly, states, then

from numpyro_dsn import DSN, DSNWarning, behavior, simulator
from numpyro_dsn.constraints import AtLeast, AtMost, Between, Covariance, Moments
from numpyro_dsn.program import read, simulate

NAN, INF = np.nan, np.inf


def dynamic_support():
    numpyro.sample("width", dist.Uniform(draw_z(), 2.0))


def subsampled():
    with numpyro.plate("cells", 5, subsample_size=2):
        numpyro.sample("z", dist.Uniform(-1.0, 1.0))


def subsampled_in_scope():
    handlers.scope(subsampled, prefix="left")()


def state_z_again(sites):
    behavior("z", 2 * sites["z"], ZERO)


def state_about_z_twice(sites):
    behavior("z", sites["z"], ZERO)
    behavior("z", sites["z"], AtLeast(-1.0))


def moving_target(sites):
    behavior("rate", sites["z"] ** 2, Moments(sites["z"]))


def branches_on_a_value():
    if draw_z() > 0:
        numpyro.sample("w", dist.Normal())


def uses_numpy_on_a_value():
    numpyro.deterministic("x", np.sin(np.asarray(draw_z())))


def state_rate_twice(sites):
    behavior("rate", sites["z"], ZERO)
    behavior("rate", 2 * sites["z"], ZERO)


def nothing(sites):
    pass


SHAPES = "`mean` has shape .* but the statistic has shape .*give one target for each element"
SUPPORT = "The support of site 'z' has"
HOLD = r"`substitute\(model, data=\{'z': value\}\)`"

# name: model, behavior, what the message says
REFUSALS = {
    "no-behavior": (draw_z, None, "Nothing is asked.*state a behavior.*Moments"),
    "empty-behavior": (draw_z, {}, "Nothing is asked.*state a behavior"),
    "silent-behavior": (draw_z, nothing, "Nothing is asked.*state a behavior"),
    "duplicate-name": (
        then(lambda: numpyro.deterministic("z", 1.0)),
        ANY_Z,
        "Two sites are named 'z'; rename",
    ),
    "duplicate-statement": (draw_z, state_rate_twice, "Two sites are named 'rate'; rename"),
    "statement-named-as-a-site": (
        draw_z,
        state_z_again,
        r"Two sites are named 'z'.*`behavior\('z', sites\['z'\], ...\)`",
    ),
    "two-statements-about-a-site": (
        draw_z,
        state_about_z_twice,
        "Two behaviors are stated about the site 'z'; state one",
    ),
    "moving-target": (draw_z, moving_target, "'rate': its target changes with the parameters"),
    "python-branch": (branches_on_a_value, ANY_Z, "looks in Python at a value.*`jnp.where`"),
    "numpy-on-a-value": (uses_numpy_on_a_value, ANY_Z, "looks in Python at a value.*`jax.numpy`"),
    "seeded": (handlers.seed(draw_z, 0), ANY_Z, r"no latent site.*\['z'\] are held.*`numpyro.han"),
    "all-held": (
        handlers.substitute(draw_z, {"z": 0.5}),
        ANY_Z,
        r"no latent site.*\['z'\] are held",
    ),
    "replaced-by-do": (
        handlers.do(then(lambda: numpyro.sample("u", dist.Normal())), {"u": 2.0}),
        {"u": ZERO},
        r"names 'u', which is no site.*\['z'\]",
    ),
    "unknown-site": (
        then(lambda: numpyro.deterministic("rate", 1.0)),
        {"Rate": ZERO},
        r"names 'Rate', which is no site.*\['z', 'rate'\].*`numpyro.deterministic`",
    ),
    "param-is-no-site": (
        then(lambda: numpyro.param("gain", 1.0)),
        {"gain": ZERO},
        r"names 'gain', which is no site.*\['z'\]",
    ),
    "mean-shape": (lambda: draw_z(2), {"z": ZERO}, f"behavior 'z': {SHAPES}"),
    "mean-shape-stated": (states(jnp.ones(2), Moments(jnp.ones(3))), None, f"'rate': {SHAPES}"),
    "std-zero": (draw_z, {"z": Moments(0.0, 0.0)}, "'z': `std` must be > 0.*no variance"),
    "std-negative": (states(1.0, Moments(0.0, -1.0)), None, "'rate': `std` must be > 0"),
    "cov-not-positive": (
        lambda: draw_z(2),
        {"z": Covariance(np.zeros(2), [[1.0, 2.0], [2.0, 1.0]])},
        "'z': `cov` must be symmetric positive definite.*lower the correlations",
    ),
    "low-above-high": (draw_z, {"z": Between(1.0, 0.0)}, "'z': `low` must not exceed.*exchange"),
    "mean-nan": (draw_z, {"z": Moments(NAN)}, "'z': `mean` must be finite.*give a finite"),
    "bound-nan": (draw_z, {"z": AtLeast(NAN)}, "'z': `bound` must be finite.*leave the statement"),
    "bound-inf": (draw_z, {"z": AtMost(INF)}, "'z': `bound` must be finite.*leave the statement"),
    "low-inf": (draw_z, {"z": Between(-INF, 0.0)}, "'z': `low` must be finite.*`AtMost`"),
    "prior-inf": (prior(dist.Uniform(0.0, INF)), ANY_Z, f"{SUPPORT} upper_bound inf; give a fin"),
    "prior-nan": (prior(dist.Uniform(NAN, 1.0)), ANY_Z, f"{SUPPORT} lower_bound nan; give a fin"),
    "prior-inf-in-one-dimension": (
        prior(dist.Uniform(jnp.array([-INF, 0.0]), jnp.ones(2)).to_event(1)),
        {"z": Moments(jnp.zeros(2))},
        rf"{SUPPORT} lower_bound \[-inf +0.*\]; give a finite bound",
    ),
    "prior-empty": (prior(dist.Uniform(1.0, 0.0)), ANY_Z, "support of site 'z' is empty.*exchange"),
    "no-latent": (
        lambda: numpyro.deterministic("x", 1.0),
        {"x": ZERO},
        "no latent site.*`numpyro.sample`",
    ),
    "only-noise": (simulator()(draw_z), ANY_Z, "no latent site.*`numpyro.sample`"),
    "discrete": (prior(dist.Poisson(3.0)), ANY_Z, rf"'z' is discrete.*`simulator\(\)`.*{HOLD}"),
    "discrete-bernoulli": (prior(dist.Bernoulli(0.5)), ANY_Z, "Site 'z' is discrete"),
    "subsampled": (
        subsampled,
        {"z": Moments(jnp.zeros(2))},
        r"'z' is subsampled by plate 'cells' \(2 of 5\); give the plate its full size",
    ),
    "subsampled-in-scope": (
        subsampled_in_scope,
        {"left/z": Moments(jnp.zeros(2))},
        "'left/z' is subsampled by plate 'left/cells'",
    ),
    "dynamic-support": (
        dynamic_support,
        ANY_Z,
        "support of site 'width' depends on other sites.*`numpyro.deterministic`",
    ),
    "observed": (
        then(lambda: numpyro.sample("x", dist.Normal(), obs=1.0)),
        ANY_Z,
        r"Site 'x' is observed.*likelihood.*posterior.*Remove `obs`.*`simulator\(\)`",
    ),
    "conditioned": (handlers.condition(draw_z, data={"z": 0.5}), ANY_Z, f"'z' is observed.*{HOLD}"),
    "factor": (
        then(lambda: numpyro.factor("weight", 1.0)),
        ANY_Z,
        "'weight' is a factor.*relative to prior x factor.*Remove it",
    ),
    "mutable": (
        then(lambda: mutable("state", jnp.zeros(()))),
        ANY_Z,
        "Site 'state' is mutable.*`jax.lax.scan`",
    ),
}


def assert_refused(dsn, rng_key, error, match):
    """Expect an error from `init`, raised while reading, before anything was built or compiled."""
    with pytest.raises(error, match=f"(?s){match}") as raised:
        dsn.init(rng_key)
    assert not hasattr(dsn, "_fit")
    frames = traceback.extract_tb(raised.tb)
    names = [frame.name for frame in frames if "numpyro_dsn" in Path(frame.filename).parts]
    assert "read" in names


@pytest.mark.parametrize(("model", "stated", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_program_that_cannot_be_meant_is_refused(model, stated, message, rng_key):
    assert_refused(DSN(model, stated), rng_key, ValueError, message)


@pytest.mark.parametrize(
    ("model", "stated", "message"),
    [
        (draw_z, ZERO, "`behavior` must be a callable of .* or a dict"),
        (draw_z, {"z": 0.0}, "behavior 'z': expected a constraint.*`Moments"),
        (states(1.0, 0.0), None, "behavior 'rate': expected a constraint.*`Moments"),
        (states([1.0, 2.0], Moments([0.0, 0.0])), None, "'rate': the statistic must be an array"),
    ],
    ids=["constraint-alone", "number-in-dict", "number-stated", "list-as-statistic"],
)
def test_a_statement_of_the_wrong_kind_is_refused(model, stated, message, rng_key):
    assert_refused(DSN(model, stated), rng_key, TypeError, message)


CHANGES = {
    "latents": (prior(dist.Normal()), lambda: None),
    "shape": (prior(dist.Normal().expand([2])), prior(dist.Normal().expand([3]))),
    "kind-of-support": (prior(dist.HalfNormal()), prior(dist.Normal())),
    "bounds": (prior(dist.Uniform(0.0, 1.0)), prior(dist.Uniform(0.0, 2.0))),
}


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("branches", CHANGES.values(), ids=CHANGES.keys())
def test_a_model_whose_runs_differ_is_refused(branches, first, rng_key):
    runs = itertools.count(first)

    def model():
        numpyro.sample("switch", dist.Normal())
        branches[next(runs) % 2]()  # as if it depended on the value of "switch"

    message = "[Ss]ite 'z' (changes with the values of|depends on) other sites"
    assert_refused(DSN(model, {"switch": ZERO}), rng_key, ValueError, message)


def test_a_guide_is_not_set_up_before_the_program_was_read(rng_key, monkeypatch):
    reached = []
    monkeypatch.setattr("numpyro_dsn.dsn.build_problem", lambda *args: reached.append(args))
    with pytest.raises(ValueError, match="Nothing is asked"):
        DSN(draw_z).init(rng_key)
    assert not reached


@pytest.mark.parametrize("z", [0, 2])
def test_the_remedy_for_a_discrete_or_conditioned_site_works(z, rng_key):
    def model():
        rate = numpyro.sample("rate", dist.Uniform(0.0, 1.0))
        z = numpyro.sample("z", dist.Poisson(3.0))
        numpyro.deterministic("x", rate + z)

    held = handlers.substitute(model, data={"z": z})
    program = read(rng_key, held, {"x": ZERO}, (), {})
    assert list(program.latents) == ["rate"]
    run = simulate(rng_key, program.model, {"rate": 0.5}, program.constraints, (), {})
    assert_allclose(run.statistics, [z + 0.5])


# Warnings


def test_an_improper_prior_warns_at_the_line_of_the_user(rng_key):
    improper = prior(dist.ImproperUniform(dist.constraints.real, (), ()))
    dsn = DSN(improper, {"z": Moments(0.0, 1.0)}, num_particles=4, num_steps=1)
    with pytest.warns(DSNWarning, match=r"\['z'\] is improper: .* infinite.*Uniform") as warned:
        dsn.init(rng_key)
    assert [Path(warning.filename) for warning in warned] == [Path(__file__)]
    assert not read_quietly(rng_key, improper, ANY_Z).is_proper


def test_parameters_of_the_model_are_frozen_with_a_warning_at_the_line_of_the_user(rng_key):
    dsn = DSN(parametric, {"rate": ZERO}, num_particles=4, num_steps=1)
    with pytest.warns(DSNWarning, match=r"Parameters \['gain'\].*held.*prior") as warned:
        state = dsn.init(rng_key)
    assert [Path(warning.filename) for warning in warned] == [Path(__file__)]
    assert all(name.startswith("auto_") for name in dsn.get_params(state))
    assert hasattr(dsn, "_fit")  # which `assert_refused` expects to be missing
