"""Several engines on one behavior, side by side."""

from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_dsn.plots.data import pyplot

if TYPE_CHECKING:
    from numpyro_dsn.comparison import Comparison


def plot_compare(comparison: "Comparison", axes: "np.ndarray | None" = None) -> "np.ndarray":
    """Draw what each method achieves: every statistic, the share of every mode, and the entropy.

    Parameters
    ----------
    comparison
        What ``compare`` returns.
    axes
        One axis for each statistic and each mode, and one for the entropy.

    Returns
    -------
    The axes; points with two standard errors, one line for each method.
    """
    rows = comparison.rows
    first = next(iter(rows.values()))
    panels: dict[str, Any] = {
        label: {name: row.statistics[label] for name, row in rows.items()}
        for label in first.statistics
    }
    for mode in first.modes:
        panels[f"share of {mode}"] = {name: row.modes[mode] for name, row in rows.items()}
    panels["entropy (nats)"] = {name: row.entropy for name, row in rows.items()}
    if axes is None:
        plt = pyplot()
        size = (2.2 * len(panels) + 1.0, 0.35 * len(rows) + 1.2)
        _, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
    positions = np.arange(len(rows))[::-1]
    for axis, (title, estimates) in zip(np.ravel(axes), panels.items(), strict=True):
        for position, name in zip(positions, rows, strict=True):
            mean, error = estimates[name]
            axis.errorbar(mean, position, xerr=2 * np.nan_to_num(error), fmt="o", ms=4)
        axis.set_title(title, fontsize="medium")
        axis.set_ylim(-0.5, len(rows) - 0.5)
    np.ravel(axes)[0].set_yticks(positions, list(rows))
    return axes
