"""Figures show the numbers that are in the data."""

import sys

import arviz
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from matplotlib.colors import to_rgba
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn import DSN, PenaltyMethod
from numpyro_dsn.constraints import AtLeast, Between, Moments
from numpyro_dsn.inference_data import to_container
from numpyro_dsn.plots import plot_optimization, plot_pair
from numpyro_dsn.plots.data import COLORS
from numpyro_dsn.plots.pair import MAX_POINTS

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:The fit has not converged:numpyro_dsn.DSNWarning"),
]

NUM_CHAINS, NUM_STEPS, NUM_SAMPLES = 2, 20, 100
ASKED = {"total": Moments(1.0, std=1.0), "z": Between(-np.ones(2), np.ones(2)), "w": AtLeast(0.5)}
LABELS = ["mean[total]", "var[total]", "mean[z[0]]", "mean[z[1]]", "mean[w]"]
TARGETS = [{1.0}, {1.0}, {-1.0, 1.0}, {-1.0, 1.0}, {0.5}]


def circuit():
    z = numpyro.sample("z", dist.Uniform(-2 * jnp.ones(2), 2.0).to_event(1))
    w = numpyro.sample("w", dist.Uniform(0.0, 1.0), infer={"units": "Hz"})
    numpyro.deterministic("total", z.sum() + w)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def dsn():
    return DSN(
        circuit,
        ASKED,
        AutoDiagonalNormal(circuit),
        method=PenaltyMethod(num_batches=10),
        num_particles=50,
        num_steps=NUM_STEPS,
        num_chains=NUM_CHAINS,
    )


@pytest.fixture(scope="module")
def fit(dsn):
    return dsn.run(jax.random.key(0), num_epochs=3)


@pytest.fixture(scope="module")
def data(fit):
    return fit.to_inference_data(jax.random.key(1), num_samples=NUM_SAMPLES)


@pytest.fixture(scope="module")
def parameters(data):
    """Draws of w, z[0] and z[1], and their log density."""
    posterior = data["posterior"]
    columns = np.concatenate([np.asarray(posterior["w"])[..., None], posterior["z"]], -1)
    return columns.reshape(-1, 3), np.ravel(data["sample_stats"]["log_q"])


@pytest.fixture(params=["in memory", "from a file"])
def source(request, data, tmp_path):
    if request.param == "in memory":
        return data
    data.to_netcdf(str(tmp_path / "fit.nc"), engine="h5netcdf")
    return arviz.from_netcdf(str(tmp_path / "fit.nc"), engine="h5netcdf")


def with_converged(data, converged, held_epoch):
    """The same data with another outcome of the convergence test, by chain and epoch."""
    groups = {
        name: data[name].to_dataset() if hasattr(data[name], "to_dataset") else data[name].copy()
        for name in ("posterior", "sample_stats", "constant_data", "behavior", "optimization")
    }
    optimization = groups["optimization"].copy()
    steps = optimization.attrs["steps_per_epoch"]
    optimization["converged"] = (("chain", "epoch"), np.asarray(converged, int))
    optimization["held_epoch"] = (("chain",), np.asarray(held_epoch))
    groups["optimization"] = optimization.assign_attrs(steps_per_epoch=steps)
    return to_container(groups, dict(data.attrs))


def lines_of(axis, style):
    return [line for line in axis.lines if line.get_linestyle() == style]


# Pairs -------------------------------------------------------------------------------------------


def test_pairs_are_the_draws_colored_by_their_density(source, parameters):
    columns, log_q = parameters
    order = np.argsort(log_q)
    axes = plot_pair(source)
    assert axes.shape == (3, 3)
    for row in range(3):
        for column in range(row):
            (scatter,) = axes[row, column].collections
            np.testing.assert_allclose(
                scatter.get_offsets(), columns[order][:, [column, row]], rtol=1e-6
            )
            np.testing.assert_allclose(scatter.get_array(), log_q[order], rtol=1e-6)


def test_pairs_have_histograms_on_the_diagonal_and_nothing_above(data, parameters):
    columns, _ = parameters
    axes = plot_pair(data)
    for row in range(3):
        bars = axes[row, row].patches
        edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
        np.testing.assert_allclose(
            [bar.get_height() for bar in bars],
            np.histogram(columns[:, row], edges, density=True)[0],
            rtol=1e-4,
        )
        np.testing.assert_allclose(
            [edges[0], edges[-1]], [columns[:, row].min(), columns[:, row].max()], rtol=1e-5
        )
        assert all(axes[row, column].get_visible() == (column <= row) for column in range(3))


def test_pairs_are_labeled_once(source):
    axes = plot_pair(source)
    labels = ["w (Hz)", "z[0]", "z[1]"]
    assert [axis.get_xlabel() for axis in axes[-1]] == labels
    assert [axis.get_ylabel() for axis in axes[1:, 0]] == labels[1:]
    inner = [axis for axis in axes[:-1].flat] + [axes[0, 0]]
    assert all(axis.get_xlabel() == "" for axis in inner)
    colorbar = axes[0, 0].figure.axes[-1]
    assert colorbar.get_ylabel() == "log density (nats)"


def test_columns_of_pairs_share_their_range(data):
    axes = plot_pair(data)
    axes[2, 0].set_xlim(0.25, 0.75)
    assert axes[0, 0].get_xlim() == axes[1, 0].get_xlim() == (0.25, 0.75)
    assert axes[1, 1].get_xlim() != (0.25, 0.75)


def test_pairs_of_chosen_variables_use_coordinates(fit):
    coords = {"entry": ["first", "second"]}
    data = fit.to_inference_data(num_samples=10, coords=coords, dims={"z": ["entry"]})
    axes = plot_pair(data, var_names=["total", "z"])
    assert [axis.get_xlabel() for axis in axes[-1]] == ["total", "z[first]", "z[second]"]
    (scatter,) = axes[1, 0].collections
    x = np.sort(scatter.get_offsets()[:, 0])
    np.testing.assert_allclose(x, np.sort(np.ravel(data["posterior"]["total"])), rtol=1e-6)


def test_one_parameter_has_a_histogram(data):
    axes = plot_pair(data, var_names=["w"])
    assert axes.shape == (1, 1)
    assert axes[0, 0].patches
    assert len(axes[0, 0].figure.axes) == 1  # no color, no bar


def test_pairs_thin_many_draws(fit):
    data = fit.to_inference_data(num_samples=MAX_POINTS)
    (scatter,) = plot_pair(data, var_names=["z"])[1, 0].collections
    points = scatter.get_offsets()
    assert len(points) == MAX_POINTS
    draws = np.reshape(np.asarray(data["posterior"]["z"]), (-1, 2))
    assert {tuple(point) for point in points} <= {tuple(draw) for draw in draws.astype(float)}
    assert len({tuple(point) for point in points}) == MAX_POINTS


def test_pairs_are_drawn_into_given_axes(data):
    figure, given = plt.subplots(3, 3, sharex="col")
    assert plot_pair(data, axes=given) is given
    assert plt.get_fignums() == [figure.number]
    assert all(
        len(given[row, column].collections) == 1 for row in range(3) for column in range(row)
    )
    plot_pair(data, axes=given)  # a second fit on top
    assert len(given[1, 0].collections) == 2


def test_pairs_of_an_unknown_variable(source):
    with pytest.raises(ValueError, match=r"'g' is no variable of the posterior; .*'total', 'w'"):
        plot_pair(source, var_names=["w", "g"])


# Optimization ------------------------------------------------------------------------------------


def test_optimization_has_the_trace_and_the_epochs(source, fit):
    axes = plot_optimization(source)
    epochs, steps, _ = fit.history
    assert len(axes) == 1 + len(LABELS)
    numbers = np.asarray(steps.step)[:, 0]
    for chain in range(NUM_CHAINS):
        color = to_rgba(COLORS[chain])
        entropy, markers = (line for line in axes[0].lines if to_rgba(line.get_color()) == color)
        np.testing.assert_array_equal(entropy.get_xdata(), numbers)
        np.testing.assert_array_equal(entropy.get_ydata(), steps.entropy[:, chain])
        np.testing.assert_array_equal(markers.get_xdata(), NUM_STEPS * np.arange(4))
        np.testing.assert_array_equal(markers.get_ydata(), epochs.entropy[:, chain])
        assert markers.get_linestyle() == "None"
        for index, axis in enumerate(axes[1:]):
            (line,) = (line for line in axis.lines if to_rgba(line.get_color()) == color)
            np.testing.assert_array_equal(line.get_xdata(), numbers)
            np.testing.assert_array_equal(line.get_ydata(), steps.mean[:, chain, index])


def test_optimization_has_targets_and_labels(source):
    axes = plot_optimization(source)
    assert [axis.get_ylabel() for axis in axes] == ["entropy (nats)", *LABELS]
    assert axes[-1].get_xlabel() == "optimizer step"
    for axis, target in zip(axes[1:], TARGETS, strict=True):
        shown = [line.get_ydata()[0] for line in lines_of(axis, "--")]
        assert len(shown) == len(target)
        assert set(shown) == target
        low, high = axis.get_ylim()
        assert all(low < value < high for value in target)
    assert not lines_of(axes[0], "--")


def test_convergence_line_is_at_the_held_epoch_of_converged_chains(data):
    converged = [[0, 1, 1, 0], [0, 0, 0, 0]]
    axes = plot_optimization(with_converged(data, converged, held_epoch=[2, 3]))
    for axis in axes:
        (line,) = lines_of(axis, ":")
        np.testing.assert_array_equal(line.get_xdata(), 2 * NUM_STEPS)
        assert line.get_color() == COLORS[0]


def test_no_convergence_line_without_convergence(data):
    axes = plot_optimization(with_converged(data, np.zeros((NUM_CHAINS, 4)), [3, 3]))
    assert not any(lines_of(axis, ":") for axis in axes)


def test_dual_bound_bounds_the_entropy_of_a_uniform_prior(data):
    """The prior of the circuit is uniform on a volume of 16: H = log 16 - KL."""
    groups = with_converged(data, np.zeros((NUM_CHAINS, 4)), [3, 3])
    assert not lines_of(plot_optimization(groups)[0], "-.")  # the penalty method has no bound
    dual_bound = -np.arange(4.0)
    groups["optimization"]["dual_bound"][:] = dual_bound
    bounds = lines_of(plot_optimization(groups)[0], "-.")
    assert len(bounds) == NUM_CHAINS
    for line in bounds:
        np.testing.assert_allclose(line.get_ydata(), np.log(16) + dual_bound, rtol=1e-4)


def test_optimization_is_drawn_into_given_axes(data):
    figure, given = plt.subplots(1 + len(LABELS))
    assert plot_optimization(data, axes=given) is given
    assert plt.get_fignums() == [figure.number]
    assert all(axis.lines for axis in given)


def test_optimization_of_a_run_without_epochs(dsn):
    start = dsn.run(jax.random.key(0), num_epochs=0).to_inference_data(num_samples=10)
    axes = plot_optimization(start)
    markers = axes[0].lines[1]
    np.testing.assert_array_equal(markers.get_xdata(), [0])
    assert all(len(line.get_xdata()) == 0 for line in lines_of(axes[1], "-"))


# Requirements ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plot", [plot_pair, plot_optimization])
def test_missing_matplotlib_names_the_extra(plot, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install numpyro-dsn\[plots\]"):
        plot(data)
