"""Figures of behavior, weights, directions and several fits show the numbers in the data."""

import json

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray

from numpyro_dsn import plots
from numpyro_dsn.inference_data import to_container
from numpyro_dsn.sensitivity import Curvature, Modes, add_modes

IS_TREE = int(arviz.__version__.split(".")[0]) >= 1
NUM_CHAINS, NUM_DRAWS, NUM_TIMES = 2, 60, 5
LABELS = ["mean[rate[0]]", "mean[rate[1]]", "var[rate[0]]", "var[rate[1]]", "mean[cost]"]
LOWER = [1.0, 2.0, 0.25, 1.0, -np.inf]
UPPER = [1.0, 2.0, 0.25, 1.0, 3.0]
W = ["W[E,E]", "W[E,P]", "W[P,E]", "W[P,P]"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def make_data(seed=0, shift=0.0):
    """Data of a fit of the weights W and the drive h, made by hand."""
    rng = np.random.default_rng(seed)
    sample = {"chain": np.arange(NUM_CHAINS), "draw": np.arange(NUM_DRAWS)}
    size = (NUM_CHAINS, NUM_DRAWS)

    def draws():
        return xarray.Dataset(
            {
                "W": (["chain", "draw", "to", "from"], rng.normal(shift, 1, (*size, 2, 2))),
                "h": (["chain", "draw"], rng.normal(size=size), {"units": "Hz"}),
                "rate": (["chain", "draw", "cell"], rng.normal(1, 1, (*size, 2))),
                "cost": (["chain", "draw"], rng.uniform(0, 5, size)),
            },
            coords=sample | {"to": ["E", "P"], "from": ["E", "P"], "cell": ["E", "P"]},
        )

    trace = xarray.DataArray(
        rng.normal(size=(*size, NUM_TIMES, 2)),
        dims=["chain", "draw", "time", "cell"],
        coords=sample | {"time": 0.1 * np.arange(NUM_TIMES), "cell": ["E", "P"]},
    )
    trace["time"].attrs["units"] = "s"
    epoch, num_epochs = np.arange(4), 4
    violation = rng.normal(size=(NUM_CHAINS, num_epochs, len(LABELS)))
    violation[:, :, -1] = 0.0
    optimization = xarray.Dataset(
        {
            "violation": (["chain", "epoch", "statistic"], violation),
            "converged": (["chain", "epoch"], [[0, 0, 1, 1], [0, 0, 0, 0]]),
            "held_epoch": (["chain"], [2, 3]),
        },
        coords={"chain": sample["chain"], "epoch": epoch, "statistic": LABELS},
        attrs={"steps_per_epoch": 10.0},
    )
    bounds = {"lower": (["statistic"], LOWER), "upper": (["statistic"], UPPER)}
    groups = {
        "posterior": draws(),
        "prior": draws().isel(chain=[0]),
        "posterior_predictive": trace.to_dataset(name="x"),
        "sample_stats": xarray.Dataset(
            {"log_q": (["chain", "draw"], rng.normal(size=size))}, coords=sample
        ),
        "constant_data": xarray.Dataset(bounds, coords={"statistic": LABELS}),
        "optimization": optimization,
    }
    latents, behaviors = json.dumps(["W", "h"]), json.dumps(["rate", "cost"])
    return to_container(groups, {"latents": latents, "behaviors": behaviors, "held_chain": 0})


@pytest.fixture(scope="module")
def data():
    return make_data()


EIGENVALUES = np.array([[-4.0, -1.0, 0.5, 0.25, 0.01], [-9.0, -4.0, -1.0, -0.5, -0.1]])


@pytest.fixture(scope="module")
def with_modes(data):
    rng = np.random.default_rng(3)
    vectors = np.stack([np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2)])
    mass = np.array([0.6, 0.4])
    # The guide may line sites up in another order than the data.
    values = {"h": np.array([1.0, 2.0]), "W": np.arange(8.0).reshape(2, 2, 2)}
    modes = Modes(values, np.array([3.0, 2.0]), mass, np.full(2, 0.1))
    hessian = np.einsum("mki,mk,mkj->mij", vectors, EIGENVALUES, vectors)
    curvature = Curvature([], np.zeros((2, 5)), hessian, EIGENVALUES, vectors)
    return add_modes(data, modes, curvature)


def histogram_of(axis, kind):
    """Heights of the filled bars, or corners of the outline."""
    found = [patch for patch in axis.patches if type(patch).__name__ == kind]
    return np.array([bar.get_height() for bar in found]), found


def assert_is_histogram(axis, draws):
    heights, bars = histogram_of(axis, "Rectangle")
    bars = [bar for bar, height in zip(bars, heights, strict=True) if bar.get_alpha() != 0.2]
    edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
    expected = np.histogram(draws, edges, density=True)[0]
    np.testing.assert_allclose([bar.get_height() for bar in bars], expected, rtol=1e-3)


# The group ---------------------------------------------------------------------------------------


def test_modes_are_a_group_of_their_own(data, with_modes):
    group = with_modes["sensitivity"]
    assert all(variable.dims[0] == "chain" for variable in group.data_vars.values())
    assert list(group["chain"].values) == [0]  # the one that the fit holds
    group = group.isel(chain=0)
    assert list(group["parameter"].values) == ["h", *W]
    np.testing.assert_array_equal(group["location"], [[1, 0, 1, 2, 3], [2, 4, 5, 6, 7]])
    np.testing.assert_array_equal(group["mass"], [0.6, 0.4])
    np.testing.assert_array_equal(group["eigenvalue"], EIGENVALUES)
    with pytest.raises((KeyError, AttributeError)):
        data["sensitivity"]


def test_modes_are_written_and_read(with_modes, tmp_path):
    with_modes.to_netcdf(str(tmp_path / "fit.nc"), engine="h5netcdf")
    read = arviz.from_netcdf(str(tmp_path / "fit.nc"), engine="h5netcdf")
    axes = plots.plot_eigenvectors(read)
    assert axes[0].get_title() == "eigenvalue -4"


@pytest.mark.skipif(IS_TREE, reason="a DataTree has no data frame of all groups")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ArviZ 0.x, of pandas
def test_modes_are_in_the_rows_of_their_chain(with_modes):
    """A data frame has a row for each draw, and modes belong to the chain that the fit holds."""
    frame = with_modes.to_dataframe()
    assert len(frame) == NUM_CHAINS * NUM_DRAWS
    mass = frame["sensitivity", "mass[1]", 1]
    np.testing.assert_array_equal(mass[frame["chain"] == 0], 0.4)
    assert np.all(np.isnan(mass[frame["chain"] == 1]))


def test_a_curvature_elsewhere_is_refused(data):
    modes = Modes({"h": np.ones(2), "W": np.ones((2, 2, 2))}, *np.ones((3, 2)))
    one = Curvature([], np.zeros(5), np.zeros((5, 5)), np.zeros(5), np.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"shape \(5,\) for 2 modes of 5 parameters"):
        add_modes(data, modes, one)


# Figures -----------------------------------------------------------------------------------------


def test_pairs_have_modes_and_directions(with_modes):
    axes = plots.plot_pair(with_modes, ["W", "h"])
    group = with_modes["sensitivity"].isel(chain=0)
    lines = axes[4, 1].lines  # W[E,P] against h
    stars = [line for line in lines if line.get_marker() == "*"]
    centers = [[line.get_xdata()[0], line.get_ydata()[0]] for line in stars]
    np.testing.assert_array_equal(centers, [[1.0, 1.0], [5.0, 2.0]])
    assert len(lines) == 2 * 3
    first = lines[0]  # the most sensitive direction of mode 0, one standard deviation either way
    vector = np.asarray(group["eigenvector"])[0, 0, [2, 0]]
    ends = np.stack([first.get_xdata(), first.get_ydata()], axis=-1)
    np.testing.assert_allclose(ends, [[1, 1] - vector / 2, [1, 1] + vector / 2])
    assert axes[4, 1].get_ylabel() == ""
    assert axes[4, 0].get_ylabel() == "h (Hz)"


def test_eigenvectors_are_bars_with_eigenvalues(with_modes):
    axes = plots.plot_eigenvectors(with_modes, mode=1, num_directions=3)
    assert [axis.get_title() for axis in axes] == [
        "eigenvalue -9",
        "eigenvalue -4",
        "eigenvalue -1",
    ]
    for axis, vector in zip(
        axes, np.asarray(with_modes["sensitivity"]["eigenvector"])[0, 1], strict=False
    ):
        np.testing.assert_allclose([bar.get_height() for bar in axis.patches], vector)
    assert [text.get_text() for text in axes[-1].get_xticklabels()] == ["h", *W]


def test_behavior_has_target_and_band(data):
    axes = plots.plot_behavior(data)
    assert [axis.get_xlabel() for axis in axes] == ["rate[E]", "rate[P]", "cost"]
    for axis, cell, target, std in ((axes[0], 0, 1.0, 0.5), (axes[1], 1, 2.0, 1.0)):
        (line,) = axis.lines
        np.testing.assert_array_equal(line.get_xdata(), target)
        band = [p for p in axis.patches if p.get_alpha() == 0.2][0].get_extents()
        ends = axis.transData.inverted().transform(band)[:, 0]
        np.testing.assert_allclose(ends, [target - 2 * std, target + 2 * std], atol=1e-6)
        draws = np.asarray(data["posterior"]["rate"])[..., cell].ravel()
        low, high = axis.get_xlim()
        assert_is_histogram(axis, draws[(draws >= low) & (draws <= high)])
        outline = [p for p in axis.patches if type(p).__name__ == "Polygon"]
        assert len(outline) >= 1
    (line,) = axes[2].lines  # an upper bound, and no band
    np.testing.assert_array_equal(line.get_xdata(), 3.0)
    assert not [p for p in axes[2].patches if p.get_alpha() == 0.2]


def test_violations_have_tolerance_and_held_epoch(data):
    axis = plots.plot_violations(data, tolerance=0.05)
    lines = {line.get_label(): line for line in axis.lines}
    violation = np.asarray(data["optimization"]["violation"])[0]
    for index, label in enumerate(LABELS[:-1]):
        np.testing.assert_array_equal(lines[label].get_xdata(), [0, 10, 20, 30])
        np.testing.assert_array_equal(lines[label].get_ydata(), np.abs(violation[:, index]))
    assert np.all(np.isnan(lines["mean[cost]"].get_ydata()))
    (dashed,) = [line for line in axis.lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(dashed.get_ydata(), 0.05)
    (dotted,) = [line for line in axis.lines if line.get_linestyle() == ":"]
    np.testing.assert_array_equal(dotted.get_xdata(), 20)
    assert axis.get_yscale() == "log"


def test_weights_stand_in_their_matrix(data):
    axes = plots.plot_matrix(data, "W")
    assert [axis.get_title() for axis in axes.ravel()] == W
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["to E", "to P"]
    assert [axis.get_xlabel() for axis in axes[-1]] == ["from E", "from P"]
    draws = np.asarray(data["posterior"]["W"])
    for row in range(2):
        for column in range(2):
            low, high = [f(np.asarray(data["prior"]["W"])) for f in (np.min, np.max)]
            inside = draws[..., row, column].ravel()
            assert_is_histogram(axes[row, column], inside[(inside >= low) & (inside <= high)])
    assert len({axis.get_xlim() for axis in axes.ravel()}) == 1


def test_layouts_place_weights_by_label(data):
    axes = plots.plot_matrix(data, [["h", None, "W[E,P]"]], ["h"], ["a", "b", "c"])
    assert axes.shape == (1, 3)
    assert not axes[0, 1].axison
    assert [axes[0, at].get_title() for at in (0, 2)] == ["h (Hz)", "W[E,P]"]


def test_traces_are_colored_by_their_density(data):
    axes = plots.plot_traces(data, "x", num_traces=7)
    assert [axis.get_ylabel() for axis in axes] == ["x[E]", "x[P]"]
    assert axes[-1].get_xlabel() == "time (s)"
    color = np.ravel(data["sample_stats"]["log_q"])
    values = np.asarray(data["posterior_predictive"]["x"]).reshape(-1, NUM_TIMES, 2)
    for panel, axis in enumerate(axes):
        assert len(axis.lines) == 7
        densest, least = axis.lines[-1], axis.lines[0]
        np.testing.assert_array_equal(densest.get_ydata(), values[color.argmax(), :, panel])
        np.testing.assert_array_equal(least.get_ydata(), values[color.argmin(), :, panel])
        assert densest.get_color() == plt.get_cmap("viridis")(1.0)
    assert axes[0].figure.axes[-1].get_ylabel() == "log density (nats)"


def test_forests_have_quantiles_of_every_fit(data):
    other = make_data(seed=1, shift=3.0)
    axis = plots.plot_forest({"one": data, "other": other}, ["W"])
    assert [text.get_text() for text in axis.get_yticklabels()] == W
    markers = [line for line in axis.lines if line.get_marker() == "o"]
    medians = [np.median(np.asarray(d["posterior"]["W"]), (0, 1)).ravel() for d in (data, other)]
    np.testing.assert_allclose([m.get_xdata()[0] for m in markers], np.concatenate(medians))
    thin = [line for line in axis.lines if line.get_lw() == 1][0]
    draws = np.asarray(data["posterior"]["W"])[..., 0, 0]
    np.testing.assert_allclose(thin.get_xdata(), np.percentile(draws, [2.5, 97.5]))
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["one", "other"]
    assert axis.yaxis_inverted()


def test_densities_of_fits_share_their_bins(data):
    other = make_data(seed=1, shift=3.0)
    axes = plots.plot_densities({"one": data, "other": other}, ["W", "h"])
    assert [axis.get_xlabel() for axis in axes] == [*W, "h (Hz)"]
    for axis in axes:
        one, two = axis.patches
        np.testing.assert_allclose(one.get_xy()[:, 0].min(), two.get_xy()[:, 0].min())
        assert one.get_linestyle() != two.get_linestyle()


FIGURES = [
    (plots.plot_behavior, {}, 3),
    (plots.plot_violations, {}, 1),
    (plots.plot_traces, {"var_name": "x"}, 2),
    (plots.plot_eigenvectors, {}, 5),
]


@pytest.mark.parametrize(("plot", "arguments", "num_axes"), FIGURES)
def test_given_axes_are_used(plot, arguments, num_axes, with_modes):
    figure, given = plt.subplots(num_axes, squeeze=False)
    returned = plot(with_modes, **arguments, axes=given[:, 0])
    assert list(np.atleast_1d(returned)) == list(given[:, 0])
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=f"`axes` has 7 axes, but there are {num_axes} panels"):
        plot(with_modes, **arguments, axes=plt.subplots(7)[1])


# Requirements ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda d: plots.plot_eigenvectors(d), "no group 'sensitivity'. Add it with"),
        (lambda d: plots.plot_behavior(d, ["gamma"]), "'gamma' is no variable of the posterior"),
        (lambda d: plots.plot_traces(d, "v"), "'v' is no variable of the posterior_predictive"),
        (lambda d: plots.plot_traces(d, "h", group="posterior"), "needs time after chain and draw"),
        (lambda d: plots.plot_matrix(d, "h"), "a matrix has two after chain and draw"),
        (lambda d: plots.plot_matrix(d, [["h", "k"]]), r"\['k'\] are no parameters"),
        (lambda d: plots.plot_matrix(d, [["h"], []]), "rows of `layout` must have one length"),
        (lambda d: plots.plot_forest({}), "`fits` must be data by name"),
        (lambda d: plots.plot_densities(d), "`fits` must be data by name"),
    ],
)
def test_figures_that_cannot_be_meant(draw, message, data):
    with pytest.raises(ValueError, match=message):
        draw(data)


def test_modes_that_do_not_exist(with_modes):
    with pytest.raises(ValueError, match="`mode` is 2, but the data has modes 0 to 1"):
        plots.plot_eigenvectors(with_modes, mode=2)
