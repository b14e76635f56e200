"""Figures of the superior colliculus: modes across accuracies, the path of a fit, silencing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from models.sc_simulator import MODES, TASKS
from numpyro_dsn import plots
from numpyro_dsn.plots.data import COLORMAP


def draw_fit(data: Any, out: Path, suffix: str) -> list[Path]:
    """Write the pair plot, the optimization and the path from the prior of one fit.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    out
        Folder of the figures.
    suffix
        End of their names.

    Returns
    -------
    The files.
    """
    drawings: dict[str, Callable[[Any], np.ndarray]] = {
        "pair": plots.plot_pair,
        "optimization": plots.plot_optimization,
        "path": plot_path,
    }
    files = []
    for name, draw in drawings.items():
        files.append(out / f"{name}_{suffix}.png")
        figure = draw(data).flat[0].figure
        figure.savefig(files[-1], dpi=120)
        plt.close(figure)
    return files


def plot_path(data: Any) -> np.ndarray:
    """Draw effective sample size, violation and multipliers over the epochs, for every chain.

    Returns
    -------
    Three axes, above each other.
    """
    optimization = data["optimization"]
    labels = [str(label) for label in optimization["statistic"].values]
    _, axes = plt.subplots(3, 1, sharex=True, figsize=(6.0, 7.0), layout="constrained")
    epochs = optimization["epoch"].values
    for chain in optimization["chain"].values:
        picked = optimization.sel(chain=chain)
        axes[0].plot(epochs, picked["ess"], "o-", color="0.3", ms=3)
        for index, label in enumerate(labels):
            style = {"color": f"C{index}", "label": label if chain == 0 else None}
            axes[1].plot(epochs, np.abs(picked["violation"][:, index]), "o-", ms=3, **style)
            scaled = picked["multipliers"][:, index] * picked["scale"][0, index]
            axes[2].plot(epochs, scaled, "o-", ms=3, **style)
    axes[0].set_yscale("log")
    axes[1].set_yscale("log")
    axes[2].set_yscale("symlog")
    axes[0].set_ylabel("effective draws")
    axes[1].set_ylabel("violation / unit")
    axes[2].set_ylabel("multiplier x unit")
    axes[2].set_xlabel("epoch")
    axes[1].legend(fontsize=7)
    return axes


def plot_eigenvalues(fits: dict[float, Any]) -> np.ndarray:
    """Draw the density of each mode's eigenvalue, one curve for each accuracy.

    Parameters
    ----------
    fits
        InferenceData or DataTree of a fit by accuracy.

    Returns
    -------
    One axis for each mode.

    References
    ----------
    The draft's Fig. 1C and D.
    """
    _, axes = plt.subplots(1, len(MODES), figsize=(12.0, 2.8), sharey=True, layout="constrained")
    for mode, axis in zip(MODES, axes, strict=True):
        values = {
            p: np.ravel(data["posterior_predictive"]["eigenvalue"].sel(mode=mode))
            for p, data in fits.items()
        }
        together = np.concatenate(list(values.values()))
        bins = np.linspace(together.min(), together.max(), 41)
        for index, (p, draws) in enumerate(sorted(values.items())):
            color = plt.get_cmap(COLORMAP)(index / max(len(values) - 1, 1))
            curve = {"histtype": "step", "color": color, "label": f"{p:.0%}"}
            axis.hist(draws, bins, density=True, **curve)
        axis.axvline(0, color="0.7", lw=0.8)
        axis.set_title(mode)
        axis.set_xlabel("eigenvalue")
    axes[0].set_ylabel("density")
    axes[0].legend(title="accuracy", fontsize=7)
    return axes


def plot_silencing(strengths: np.ndarray, accuracies: np.ndarray) -> Any:
    """Draw the accuracy in both tasks against the strength of a silencing.

    Parameters
    ----------
    strengths
        Share of the activity that is lost, shape ``(num_strengths,)``.
    accuracies
        Shape ``(num_strengths, num_samples, 2)``.

    Returns
    -------
    The axis, with means over circuits and their standard deviations.
    """
    _, axis = plt.subplots(figsize=(4.0, 3.0), layout="constrained")
    for index, task in enumerate(TASKS):
        values = np.asarray(accuracies)[..., index]
        axis.errorbar(strengths, values.mean(1), values.std(1), label=task, fmt="o-", ms=3)
    axis.set_xlabel("share of the activity that is silenced in the delay")
    axis.set_ylabel("accuracy")
    axis.legend()
    return axis
