"""What the circuits of a fit do: their statistics, and their traces."""

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
    require_axes,
    require_group,
    target_of,
    with_units,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_BINS = 50


def plot_behavior(
    data: Any, var_names: list[str] | None = None, axes: "np.ndarray | None" = None
) -> "np.ndarray":
    """Draw the distribution of every statistic against its target.

    The line is the target of the mean, or its bounds; the band is two target standard deviations
    on either side, where one was asked. The prior's distribution is outlined if the data has it.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    var_names
        Behaviors; all by default.
    axes
        One axis for each element of the behaviors.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If a name is no variable of the posterior.
    """
    names = names_of(data, "behaviors") if var_names is None else var_names
    found = columns(data, names)
    shapes = [data["posterior"][name].shape[2:] for name in names]
    elements = [(n, i) for n, shape in zip(names, shapes, strict=True) for i in np.ndindex(*shape)]
    axes = require_axes(axes, len(found), figsize=(5.0, 0.4 + 1.9 * len(found)))
    for axis, column, (name, index) in zip(axes, found, elements, strict=True):
        target = target_of(data, name, index)
        draws = column.draws[np.isfinite(column.draws)]
        low, high = np.percentile(draws, [0.1, 99.9]) if draws.size else (0.0, 1.0)
        ends = [target.lower - 2.5 * target.std, target.upper + 2.5 * target.std]
        low, high = (np.nanmin([low, ends[0]]), np.nanmax([high, ends[1]]))
        bins = np.linspace(low, high, NUM_BINS + 1)
        axis.hist(draws, bins, density=True, color=COLORS[0], alpha=0.7, label="fit")
        prior = _prior_draws(data, column.label)
        if prior is not None:
            axis.hist(prior, bins, density=True, histtype="step", color="0.4", label="prior")
        for bound in {target.lower, target.upper}:
            if np.isfinite(bound):
                axis.axvline(bound, color="black", ls="--", lw=1.5, label="target")
        if np.isfinite(target.std):
            band = (target.lower - 2 * target.std, target.upper + 2 * target.std)
            axis.axvspan(*band, color=COLORS[4], alpha=0.2, lw=0, label="2 standard deviations")
        axis.set_xlim(low, high)
        axis.set_xlabel(column.axis_label)
        axis.set_ylabel("density")
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes[0].legend(unique.values(), unique.keys(), fontsize="small")
    return axes


def plot_traces(
    data: Any,
    var_name: str,
    num_traces: int = 30,
    group: str = "posterior_predictive",
    axes: "np.ndarray | None" = None,
) -> "np.ndarray":
    """Draw simulated traces, colored by the log density of their circuits.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    var_name
        A variable with one dimension after ``(chain, draw)``, time, and at most one more, whose
        elements have a panel each.
    num_traces
        Number of draws that are drawn, evenly spaced in log density.
    group
        Where the variable is.
    axes
        One axis for each panel.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If there is no such variable, or it has no dimension of time or more than two.
    """
    pyplot()
    variables = require_group(data, group)
    if var_name not in variables.data_vars:
        raise ValueError(
            f"'{var_name}' is no variable of the {group}; its variables are "
            f"{sorted(variables.data_vars)}."
        )
    variable = variables[var_name]
    if not 1 <= len(variable.dims) - 2 <= 2:
        raise ValueError(
            f"'{var_name}' has the dimensions {variable.dims}; it needs time after chain and draw, "
            "and at most one more."
        )
    time_dim = variable.dims[2]
    values = np.asarray(variable)
    values = values.reshape(-1, *values.shape[2:])
    values = values[..., None] if values.ndim == 2 else values
    names = (
        [var_name]
        if len(variable.dims) == 3
        else [f"{var_name}[{at}]" for at in variable[variable.dims[3]].values]
    )
    color = log_density(data)
    # The densest traces are drawn last, on top.
    chosen = np.argsort(color)[np.linspace(0, len(color) - 1, num_traces).round().astype(int)]
    plt = pyplot()
    shown = plt.Normalize(*np.percentile(color, [5, 100]))
    colormap = plt.get_cmap(COLORMAP)
    axes = require_axes(axes, len(names), sharex=True, figsize=(6.0, 0.6 + 1.8 * len(names)))
    time = np.asarray(variable[time_dim].values, float)
    for panel, (axis, name) in enumerate(zip(axes, names, strict=True)):
        for draw in chosen:
            axis.plot(time, values[draw, :, panel], color=colormap(shown(color[draw])), lw=0.8)
        axis.set_ylabel(with_units(name, variable))
    axes[-1].set_xlabel(with_units(time_dim, variable[time_dim]))
    color_bar(_scale(axes[0], shown), list(axes))
    return axes


def _scale(axis: "Axes", norm: Any) -> Any:
    from matplotlib.cm import ScalarMappable

    mappable = ScalarMappable(norm, COLORMAP)
    mappable.figure = axis.figure
    return mappable


def _prior_draws(data: Any, label: str) -> np.ndarray | None:
    try:
        prior = data["prior"]
    except (KeyError, AttributeError):
        return None
    found = [c.draws for c in columns(data, list(prior.data_vars), "prior") if c.label == label]
    return found[0][np.isfinite(found[0])] if found else None
