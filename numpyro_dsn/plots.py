"""Figures of a fit, from its InferenceData alone."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORMAP = "viridis"
MAX_POINTS = 2000


def plot_pair(
    data: Any, var_names: list[str] | None = None, axes: "np.ndarray | None" = None
) -> "np.ndarray":
    """Draw every pair of parameters, colored by the log density of the fit.

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
    plt = _pyplot()
    posterior = data["posterior"]
    names = json.loads(posterior.attrs["latents"]) if var_names is None else var_names
    labels, values = _columns(posterior, names)
    color = np.asarray(data["sample_stats"]["log_q"]).ravel()
    # The densest draws last, so that modes are not hidden.
    chosen = np.sort(np.random.default_rng(0).permutation(len(color))[:MAX_POINTS])
    chosen = chosen[np.argsort(color[chosen])]
    size = len(labels)
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
            if row == size - 1:
                axis.set_xlabel(labels[column])
            if column == 0 and row > 0:
                axis.set_ylabel(labels[row])
    if drawn is not None:
        visible = [axes[row, column] for row in range(size) for column in range(row + 1)]
        drawn.figure.colorbar(drawn, ax=visible, label="log density (nats)", shrink=0.6)
    return axes


def plot_optimization(data: Any, axes: "np.ndarray | None" = None) -> "np.ndarray":
    """Draw entropy and the mean of every statistic over the steps of the optimization.

    The dotted line is the epoch that the fit holds: the highest-entropy converged one, if any.

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
    plt = _pyplot()
    optimization, bounds = data["optimization"], data["constant_data"]
    labels = [str(label) for label in optimization["statistic"].values]
    steps = optimization["step"].values
    per_epoch = optimization.attrs["steps_per_epoch"]
    if axes is None:
        layout = {"figsize": (7.0, 1.6 + 1.4 * len(labels)), "layout": "constrained"}
        _, axes = plt.subplots(len(labels) + 1, 1, sharex=True, **layout)
    for chain in optimization["chain"].values:
        picked = optimization.sel(chain=chain)
        color = f"C{chain}"
        axes[0].plot(steps, picked["step_entropy"], color=color, lw=1)
        epochs = picked["epoch"].values * per_epoch
        axes[0].plot(epochs, picked["entropy"], "o", color=color, ms=3)
        for index, axis in enumerate(axes[1:]):
            axis.plot(steps, picked["step_mean"][:, index], color=color, lw=1)
        held = int(picked["held_epoch"]) * per_epoch
        converged = bool(picked["converged"][int(picked["held_epoch"])])
        for axis in axes if converged else ():
            axis.axvline(held, color=color, ls=":", lw=1.5)
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


def _columns(posterior: Any, names: list[str]) -> tuple[list[str], np.ndarray]:
    """Return one label and one column of draws for each scalar element of the variables."""
    labels, columns = [], []
    for name in names:
        if name not in posterior:
            raise ValueError(
                f"'{name}' is no variable of the posterior; its variables are "
                f"{sorted(posterior.data_vars)}."
            )
        variable = posterior[name]
        dims = variable.dims[2:]
        for index in np.ndindex(*variable.shape[2:]):
            at = [str(variable[dim].values[i]) for dim, i in zip(dims, index, strict=True)]
            labels.append(f"{name}[{', '.join(at)}]" if at else name)
            columns.append(np.asarray(variable[(..., *index)]).ravel())
    return labels, np.stack(columns, axis=-1)


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Figures need matplotlib: `pip install numpyro-dsn[plots]`.") from error
    return plt
