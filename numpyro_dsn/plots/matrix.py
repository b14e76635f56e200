"""Marginals where their weights stand in the connectivity matrix."""

from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_dsn.plots.data import COLORS, Column, columns, names_of, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Layout = list[list[str | None]]

NUM_BINS = 40


def plot_matrix(
    data: Any,
    layout: Layout | str,
    row_names: list[str] | None = None,
    column_names: list[str] | None = None,
    axes: "np.ndarray | None" = None,
) -> "np.ndarray":
    """Draw the marginal of every weight at its place in the weight matrix.

    All panels have the range of the prior's draws, or of the fit's without a prior, so that widths
    can be compared: a narrow marginal is a sensitive weight.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    layout
        Label of the parameter in each place, such as ``[["W_EE", None], ["W_PE", "W_PP"]]``; a
        label may stand in several places, and ``None`` leaves one empty. Or the name of a variable
        with two dimensions, which is laid out as it is.
    row_names, column_names
        Names of the rows (to) and columns (from); the coordinates of a variable by default.
    axes
        Array of axes of the shape of the layout.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If a label is no parameter, rows have different lengths, or a variable is no matrix.

    References
    ----------
    The draft's Fig. 1C of its section on V1.
    """
    labels, found = _labels(data, layout)
    if isinstance(layout, str):
        variable = data["posterior"][layout]
        row_names = row_names or [str(at) for at in variable[variable.dims[2]].values]
        column_names = column_names or [str(at) for at in variable[variable.dims[3]].values]
    if axes is None:
        axes = _new_axes(len(labels), len(labels[0]))
    prior = _prior(data, list(found))
    ends = [prior.get(label, found[label].draws) for row in labels for label in row if label]
    everything = np.concatenate(ends)
    bins = np.linspace(np.nanmin(everything), np.nanmax(everything), NUM_BINS + 1)
    for place in np.ndindex(len(labels), len(labels[0])):
        axis: Axes = axes[place]
        label = labels[place[0]][place[1]]
        axis.set_yticks([])
        if label is None:
            axis.set_axis_off()
            continue
        axis.hist(found[label].draws, bins, density=True, color=COLORS[0])
        if label in prior:
            axis.hist(prior[label], bins, density=True, histtype="step", color="0.4")
        axis.set_title(found[label].axis_label, fontsize="small")
    for column, name in enumerate(column_names or []):
        axes[-1, column].set_xlabel(f"from {name}")
    for row, name in enumerate(row_names or []):
        axes[row, 0].set_ylabel(f"to {name}")
    return axes


def _labels(data: Any, layout: Layout | str) -> tuple[Layout, dict[str, Column]]:
    """Return the label in each place, and the draws of all parameters by label."""
    if isinstance(layout, str):
        found = columns(data, [layout])
        dims, shape = data["posterior"][layout].dims, data["posterior"][layout].shape
        if len(dims) != 4:
            raise ValueError(
                f"'{layout}' has the dimensions {dims}; a matrix has two after chain and draw. "
                "Give a `layout` of labels instead."
            )
        labels = np.reshape([column.label for column in found], shape[2:]).tolist()
    else:
        labels, found = layout, columns(data, names_of(data, "latents"))
    lengths = {len(row) for row in labels}
    if len(lengths) != 1:
        raise ValueError(f"The rows of `layout` must have one length, but have {sorted(lengths)}.")
    by_label = {column.label: column for column in found}
    unknown = {label for row in labels for label in row if label is not None} - set(by_label)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no parameters; these are {list(by_label)}.")
    return labels, by_label


def _new_axes(num_rows: int, num_columns: int) -> "np.ndarray":
    size = (0.8 + 1.4 * num_columns, 0.6 + 1.1 * num_rows)
    shared = {"squeeze": False, "sharex": True, "layout": "constrained"}
    return pyplot().subplots(num_rows, num_columns, figsize=size, **shared)[1]


def _prior(data: Any, labels: list[str]) -> dict[str, np.ndarray]:
    try:
        prior = data["prior"]
    except (KeyError, AttributeError):
        return {}
    found = columns(data, list(prior.data_vars), "prior")
    return {column.label: column.draws for column in found if column.label in labels}
