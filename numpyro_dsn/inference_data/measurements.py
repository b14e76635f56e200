"""What was asked, what was achieved, and how the optimization came to it.

Every variable of ``behavior`` and ``optimization`` has the dimension ``chain``: ArviZ joins groups
along it, in ``concat`` and in ``to_dataframe``.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult


def measurement_groups(result: "DSNResult") -> dict[str, Any]:
    """Return the groups ``constant_data``, ``behavior`` and ``optimization`` of a fit."""
    program = result.fit.program
    bounds = {"lower": np.asarray(program.lower), "upper": np.asarray(program.upper)}
    return {
        "constant_data": _constant_data(bounds, program.labels),
        "behavior": _behavior(result, bounds),
        "optimization": _optimization(result),
    }


def _constant_data(bounds: dict[str, np.ndarray], labels: list[str]) -> Any:
    """Return the bounds on E[T]."""
    import xarray

    variables = {name: (["statistic"], bound) for name, bound in bounds.items()}
    return xarray.Dataset(variables, coords={"statistic": labels})


def _behavior(result: "DSNResult", bounds: dict[str, np.ndarray]) -> Any:
    """Return what every chain achieved at the epoch that it holds."""
    import xarray

    epochs, chains = result.history.epochs, np.arange(len(result.epochs))
    held = {
        "achieved": epochs.mean,
        "achieved_se": epochs.mean_se,
        "scale": epochs.scale,
        "violation": epochs.violation,
        "multiplier": epochs.multipliers,
    }
    values = {n: np.asarray(leaf)[result.epochs, chains] for n, leaf in held.items()}
    values |= {f"target_{name}": np.tile(b, (len(chains), 1)) for name, b in bounds.items()}
    return xarray.Dataset(
        {name: (["chain", "statistic"], value) for name, value in values.items()},
        coords={"chain": chains, "statistic": result.fit.program.labels},
    )


def _optimization(result: "DSNResult") -> Any:
    """Return the measurements of all epochs, and the records of the steps between them."""
    import xarray

    epochs, steps, seconds = result.history
    chains = np.arange(len(result.epochs))
    variables = {
        name: (["chain", "epoch", "statistic"][: leaf.ndim], np.swapaxes(leaf, 0, 1))
        for name, leaf in epochs._asdict().items()
    }
    variables["converged"] = (["chain", "epoch"], epochs.converged.T.astype(int))
    step_mean = np.swapaxes(np.asarray(steps.mean), 0, 1)
    variables |= {
        "step_entropy": (["chain", "step"], np.asarray(steps.entropy).T),
        "step_mean": (["chain", "step", "statistic"], step_mean),
        # What all chains took together.
        "seconds": (["chain", "epoch"], np.tile(seconds, (len(chains), 1))),
        "held_epoch": (["chain"], result.epochs),
    }
    coords = {
        "chain": chains,
        "epoch": np.arange(len(epochs.entropy)),
        "step": np.asarray(steps.step)[:, 0],
        "statistic": result.fit.program.labels,
    }
    last = steps.step[-1, 0] if len(steps.step) else 0
    steps_per_epoch = float(last) / max(len(epochs.entropy) - 1, 1)
    return xarray.Dataset(variables, coords).assign_attrs(steps_per_epoch=steps_per_epoch)
