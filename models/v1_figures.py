"""Figures of primary visual cortex: marginals in place, curvature at gamma = 0, inputs, noise."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from models.v1_circuit import POPULATIONS, WEIGHTS
from models.v1_statements import SENDERS, Sites, slope
from numpyro_dsn import plots

LAYOUT = [
    [None, "W_EP", "W_ES", None],
    ["W_*E", "W_PP", "W_PS", None],
    ["W_*E", None, None, "W_SV"],
    ["W_*E", "W_VP", "W_VS", None],
]
"""Where weights stand in the matrix; that of E onto itself is fixed."""


def draw_all(
    motifs: dict[str, Any], noises: dict[str, Any], hessians: dict[str, np.ndarray], out: Path
) -> Iterator[Path]:
    """Write the figures of all fits, and yield their files.

    Parameters
    ----------
    motifs, noises
        InferenceData or DataTree by silent population, and by how much E fluctuates.
    hessians
        Hessian of each motif near gamma = 0, shape ``(8, 8)``.
    out
        Folder of the figures.
    """
    both = (motifs | noises).items()
    drawn = {f"optimization_{name}": plots.plot_optimization(data) for name, data in both}
    if motifs:
        drawn["matrix"] = plot_matrices(motifs)
        drawn["eigenvectors"] = plot_curvature(hessians)
        drawn["inputs"] = plot_inputs(motifs)
    if noises:
        drawn["noise"] = plot_noise(noises)
    for name, axes in drawn.items():
        file, figure = out / f"{name}.png", axes.flat[0].get_figure(root=True)
        figure.savefig(file, dpi=120)
        plt.close(figure)
        yield file


def plot_matrices(motifs: dict[str, Any]) -> np.ndarray:
    """Draw the marginals at their place in the weight matrix, the draft's Fig. 1C.

    Parameters
    ----------
    motifs
        InferenceData or DataTree by silent population.
    """
    figure = plt.figure(figsize=(6.5 * len(motifs), 5.0), layout="constrained")
    parts = np.atleast_1d(figure.subfigures(1, len(motifs)))
    for part, (population, data) in zip(parts, motifs.items(), strict=True):
        axes = part.subplots(4, 4, sharex=True)
        plots.plot_matrix(data, LAYOUT, list(POPULATIONS), list(POPULATIONS), axes=axes)
        part.suptitle(f"{population} silenced")
    return axes


def plot_curvature(hessians: dict[str, np.ndarray]) -> np.ndarray:
    """Draw eigenvectors and eigenvalues of the optimum's Hessian at gamma = 0, the draft's Fig. 1D.

    Parameters
    ----------
    hessians
        Median over circuits with gamma near 0 of each motif, shape ``(8, 8)``.
    """
    size = {"figsize": (5.5 * len(hessians), 5.0), "layout": "constrained", "squeeze": False}
    ratios = {"height_ratios": [1, 3]}
    _, axes = plt.subplots(2, len(hessians), gridspec_kw=ratios, sharex="col", **size)
    for (top, bottom), (population, hessian) in zip(axes.T, hessians.items(), strict=True):
        values, vectors = np.linalg.eigh(hessian)
        order = np.argsort(-np.abs(values))
        top.bar(np.arange(8), values[order], color="0.4")
        top.axhline(0, color="0.7", lw=0.8)
        top.set_title(f"{population} silenced")
        image = bottom.imshow(vectors[:, order], cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        bottom.set_yticks(np.arange(8), WEIGHTS)
        bottom.set_xticks(np.arange(8), [f"v{k + 1}" for k in range(8)])
    axes[0, 0].set_ylabel("eigenvalue / nats")
    plt.colorbar(image, ax=axes[1], label="component")
    return axes


def plot_inputs(motifs: dict[str, Any]) -> np.ndarray:
    """Draw the inputs to a silent population against gamma, the draft's Fig. 1E.

    Parameters
    ----------
    motifs
        InferenceData or DataTree by silent population.
    """
    size = {"figsize": (6.5, 2.8 * len(motifs)), "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(len(motifs), 2, sharex=True, **size)
    for row, (population, data) in zip(axes, motifs.items(), strict=True):
        sites = _flat(data)
        even = np.full(len(sites["gamma"]), 1 / len(sites["gamma"]))
        to = POPULATIONS.index(population)
        for axis, sender in zip(row, SENDERS[population], strict=True):
            received = sites["inputs"][:, to, POPULATIONS.index(sender)]
            axis.plot(sites["gamma"], received, ".", ms=3, alpha=0.4, color="0.3")
            trend = slope(sites["gamma"], received, even)
            ends = np.quantile(sites["gamma"], [0.01, 0.99])
            axis.plot(ends, received.mean() + trend.value * (ends - sites["gamma"].mean()), "C1")
            axis.set_title(f"slope {trend.value:+.2f} ± {trend.error:.2f}", fontsize="small")
            axis.set_ylabel(f"{sender}-input to silent {population}")
    figure.supxlabel("ISN coefficient γ (stabilized by inhibition below 0)", fontsize="medium")
    return axes


def plot_noise(noises: dict[str, Any]) -> np.ndarray:
    """Draw noise of E against that of P, and of S against that of V.

    Parameters
    ----------
    noises
        InferenceData or DataTree by target.
    """
    _, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
    for name, data in noises.items():
        sigma = _flat(data)["sigma"]
        for axis, (x, y) in zip(axes, ((0, 1), (2, 3)), strict=True):
            axis.plot(sigma[:, x], sigma[:, y], ".", ms=3, alpha=0.5, label=name)
            axis.set_xlabel(f"σ of {POPULATIONS[x]}")
            axis.set_ylabel(f"σ of {POPULATIONS[y]}")
    axes[0].legend()
    return axes


def _flat(data: Any) -> Sites:
    """Return draws of all chains as one axis."""
    groups = data["posterior"], data["posterior_predictive"]
    return {
        str(name): np.asarray(value).reshape(-1, *value.shape[2:])
        for group in groups
        for name, value in group.data_vars.items()
    }
