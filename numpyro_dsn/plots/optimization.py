"""The course of the optimization."""

from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_dsn.plots.data import COLORS, pyplot, require_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_optimization(data: Any, axes: "np.ndarray | None" = None) -> "np.ndarray":
    """Draw entropy and the mean of every statistic over the steps of the optimization.

    Where it is known, the dash-dotted line is the dual bound. It bounds minus the KL to the prior;
    here it is moved up by what the entropy of the fit is above that, a constant for a uniform
    prior. The dotted line is the epoch that the fit holds: the best converged one, if any.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    axes
        One axis for the entropy and one for each statistic.

    Returns
    -------
    The axes.
    """
    pyplot()
    optimization, bounds = data["optimization"], data["constant_data"]
    labels = [str(label) for label in optimization["statistic"].values]
    steps = optimization["step"].values
    per_epoch = optimization.attrs["steps_per_epoch"]
    height = 1.6 + 1.4 * len(labels)
    axes = require_axes(axes, len(labels) + 1, sharex=True, figsize=(7.0, height))
    for chain in optimization["chain"].values:
        picked = optimization.sel(chain=chain)
        color = COLORS[chain % len(COLORS)]
        axes[0].plot(steps, picked["step_entropy"], color=color, lw=1)
        epochs = picked["epoch"].values * per_epoch
        axes[0].plot(epochs, picked["entropy"], "o", color=color, ms=3)
        above = picked["entropy"] + picked["kl_to_prior"]
        dual_bound = np.asarray(picked["dual_bound"] + above)
        if np.any(np.isfinite(dual_bound)):
            axes[0].plot(epochs, dual_bound, "-.", color=color, lw=1)
        for index, axis in enumerate(axes[1:]):
            axis.plot(steps, picked["step_mean"][:, index], color=color, lw=1)
        for axis in axes:
            _mark_held(axis, picked, per_epoch, color)
    axes[0].set_ylabel("entropy (nats)")
    _focus(axes[0], np.inf, np.inf)
    for axis, label, lower, upper in zip(
        axes[1:], labels, bounds["lower"].values, bounds["upper"].values, strict=True
    ):
        for bound in {float(lower), float(upper)}:
            if np.isfinite(bound):
                axis.axhline(bound, color="black", ls="--", lw=1)
        axis.set_ylabel(label)
        _focus(axis, lower, upper)
    axes[-1].set_xlabel("optimizer step")
    return axes


def plot_violations(data: Any, tolerance: float = 0.02, axes: "Axes | None" = None) -> "Axes":
    """Draw the size of every violation after each epoch, in units of what was asked.

    One line for each statistic, that of the chain that the fit holds; the dashed line is the
    tolerance and the dotted one the epoch that the fit holds.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    tolerance
        Largest violation that counts as met, in units of what was asked; the default is that of
        ``DualNewton``.
    axes
        The axes to draw into.

    Returns
    -------
    The axes, with a logarithmic scale.
    """
    (axis,) = require_axes(axes, 1, figsize=(7.0, 3.0))
    optimization = data["optimization"]
    picked = optimization.sel(chain=int(data["posterior"].attrs["held_chain"]))
    per_epoch = optimization.attrs["steps_per_epoch"]
    steps = picked["epoch"].values * per_epoch
    violations = np.abs(np.asarray(picked["violation"]))
    # Zero, an inequality that is met, has no place on a logarithmic axis.
    shown = np.where(violations > 0, violations, np.nan)
    markers = ("o", "s", "^", "v", "D", "P", "X")
    for index, label in enumerate(optimization["statistic"].values):
        style = {"color": COLORS[index % len(COLORS)], "marker": markers[index % len(markers)]}
        axis.plot(steps, shown[:, index], label=str(label), ms=4, lw=1, **style)
    axis.axhline(tolerance, color="black", ls="--", lw=1)
    _mark_held(axis, picked, per_epoch, "black")
    axis.set_yscale("log")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("|violation| / unit")
    axis.legend(fontsize="small", ncols=2)
    return axis


def _mark_held(axis: "Axes", picked: Any, per_epoch: float, color: str) -> None:
    held = int(picked["held_epoch"])
    if bool(picked["converged"][held]):
        axis.axvline(held * per_epoch, color=color, ls=":", lw=1.5)


def _focus(axis: "Axes", lower: float, upper: float) -> None:
    """Zoom to what is left after the first quarter of the run, near the targets."""
    settled = np.concatenate(
        [
            line.get_ydata()[len(line.get_ydata()) // 4 :]
            for line in axis.lines
            if len(line.get_ydata()) > 2
        ]
        or [[0.0]]
    )
    ends = [*np.nanpercentile(settled, [1, 99]), *(b for b in (lower, upper) if np.isfinite(b))]
    if len(settled) > 1 and max(ends) > min(ends):
        margin = 0.15 * (max(ends) - min(ends))
        axis.set_ylim(min(ends) - margin, max(ends) + margin)
