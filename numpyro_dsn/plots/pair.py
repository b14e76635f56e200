"""Pairs of parameters."""

from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_dsn.plots.data import (
    COLORMAP,
    COLORS,
    color_bar,
    columns,
    log_density,
    names_of,
    pyplot,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 2000

NUM_DIRECTIONS = 2
"""Directions drawn at each mode: the two most sensitive ones."""

MAX_MODES = 4


def plot_pair(
    data: Any, var_names: list[str] | None = None, axes: "np.ndarray | None" = None
) -> "np.ndarray":
    """Draw every pair of parameters, colored by the log density of the fit.

    If the data has a group ``sensitivity``, as ``sensitivity.add_modes`` gives it, modes are drawn
    as stars, with lines along the two most sensitive directions. A line ends where the quadratic
    expansion of the log density is half a nat below the mode.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    var_names
        Variables of the posterior; the latents by default.
    axes
        Array of ``num_parameters x num_parameters`` axes to draw into.

    Returns
    -------
    The axes: scatter plots below the diagonal, histograms on it, nothing above.

    Raises
    ------
    ValueError
        If a name is no variable of the posterior.
    """
    plt = pyplot()
    found = columns(data, names_of(data, "latents") if var_names is None else var_names)
    values = np.stack([column.draws for column in found], axis=-1)
    color = log_density(data)
    # The densest draws last, so that modes are not hidden.
    chosen = np.sort(np.random.default_rng(0).permutation(len(color))[:MAX_POINTS])
    chosen = chosen[np.argsort(color[chosen])]
    size = len(found)
    if axes is None:
        layout = {"figsize": (1.2 + 1.9 * size, 0.6 + 1.7 * size), "layout": "constrained"}
        _, axes = plt.subplots(size, size, sharex="col", squeeze=False, **layout)
    drawn = None
    for row in range(size):
        for column in range(size):
            axis = axes[row, column]
            if column > row:
                axis.set_visible(False)
                continue
            if column == row:
                axis.hist(values[:, row], bins=40, density=True, color="0.6")
                axis.set_yticks([])
            else:
                x, y = values[chosen, column], values[chosen, row]
                drawn = axis.scatter(x, y, c=color[chosen], s=4, cmap=COLORMAP, linewidths=0)
                _draw_modes(axis, data, found[column].label, found[row].label)
            if row == size - 1:
                axis.set_xlabel(found[column].axis_label)
            if column == 0 and row > 0:
                axis.set_ylabel(found[row].axis_label)
    if drawn is not None:
        color_bar(drawn, [axes[row, column] for row in range(size) for column in range(row + 1)])
    return axes


def _draw_modes(axis: "Axes", data: Any, x: str, y: str) -> None:
    """Draw modes and directions into a pair, if the data has them."""
    try:
        group = data["sensitivity"].isel(chain=0)
    except (KeyError, AttributeError):
        return
    labels = [str(label) for label in group["parameter"].values]
    if x not in labels or y not in labels:
        return
    pair = [labels.index(x), labels.index(y)]
    for mode in range(min(len(group["mode"]), MAX_MODES)):
        center = np.asarray(group["location"])[mode, pair]
        for k in range(min(NUM_DIRECTIONS, len(labels))):
            direction = np.asarray(group["eigenvector"])[mode, k, pair]
            length = 1 / np.sqrt(abs(float(group["eigenvalue"][mode, k])))
            ends = center[None] + length * np.array([[-1], [1]]) * direction[None]
            axis.plot(ends[:, 0], ends[:, 1], color=COLORS[1 + 2 * k], lw=1.5)
        axis.plot(*center, "*", color="white", mec="black", ms=9, label=f"mode {mode}")
