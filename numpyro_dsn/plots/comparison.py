"""Several fits beside each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from numpyro_dsn.plots.data import (
    COLORS,
    columns,
    names_of,
    require_axes,
    require_fits,
)

NUM_BINS = 40


def plot_forest(
    fits: Mapping[str, Any], var_names: list[str] | None = None, axes: Any = None
) -> Any:
    """Draw median, central 50 % and central 95 % of parameters of several fits.

    Parameters
    ----------
    fits
        InferenceData or DataTree of each fit, or of another method, by name.
    var_names
        Variables of the posterior; the latents of the first fit by default.
    axes
        The axes to draw into.

    Returns
    -------
    The axes; one row for each parameter, from top to bottom.

    Raises
    ------
    ValueError
        If there is no fit, or a name is no variable of a posterior.
    """
    require_fits(fits)
    names = names_of(next(iter(fits.values())), "latents") if var_names is None else var_names
    tables = {name: columns(data, names) for name, data in fits.items()}
    labels = list(dict.fromkeys(c.axis_label for table in tables.values() for c in table))
    height = 0.9 + len(labels) * (0.15 + 0.18 * len(fits))
    (axis,) = require_axes(axes, 1, figsize=(5.0, height))
    spread = 0.6 / len(fits)
    for number, (name, table) in enumerate(tables.items()):
        color = COLORS[number % len(COLORS)]
        offset = (number - (len(fits) - 1) / 2) * spread
        for count, column in enumerate(table):
            low, left, median, right, high = np.nanpercentile(column.draws, [2.5, 25, 50, 75, 97.5])
            at = labels.index(column.axis_label) + offset
            axis.plot([low, high], [at, at], color=color, lw=1)
            axis.plot([left, right], [at, at], color=color, lw=3)
            first = name if count == 0 else None
            axis.plot(median, at, "o", color=color, mec="white", ms=6, label=first)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axis.legend(fontsize="small", ncols=len(fits), **above)
    return axis


def plot_densities(
    fits: Mapping[str, Any], var_names: list[str] | None = None, axes: "np.ndarray | None" = None
) -> "np.ndarray":
    """Draw the marginals of several fits over each other.

    Parameters
    ----------
    fits
        InferenceData or DataTree of each fit, or of another method, by name.
    var_names
        Variables of the posterior; the latents of the first fit by default.
    axes
        One axis for each scalar element.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If there is no fit, or a name is no variable of a posterior.
    """
    require_fits(fits)
    names = names_of(next(iter(fits.values())), "latents") if var_names is None else var_names
    tables = {name: columns(data, names) for name, data in fits.items()}
    labels = list(dict.fromkeys(c.axis_label for table in tables.values() for c in table))
    axes = require_axes(axes, len(labels), figsize=(5.0, 0.4 + 1.6 * len(labels)))
    styles = ("-", "--", "-.", ":")
    for axis, label in zip(axes, labels, strict=True):
        draws = {
            name: column.draws
            for name, table in tables.items()
            for column in table
            if column.axis_label == label
        }
        everything = np.concatenate(list(draws.values()))
        bins = np.linspace(np.nanmin(everything), np.nanmax(everything), NUM_BINS + 1)
        for number, name in enumerate(fits):
            if name not in draws:
                continue
            style = {"color": COLORS[number % len(COLORS)], "ls": styles[number % len(styles)]}
            axis.hist(draws[name], bins, density=True, histtype="step", lw=1.5, label=name, **style)
        axis.set_xlabel(label)
        axis.set_yticks([])
    axes[0].legend(fontsize="small")
    return axes
