r"""The 2-D linear dynamical system of the draft's appendix A.1.1.

.. math:: \tau \dot x = A x, \qquad A = \begin{pmatrix} a_1 & a_2 \\ a_3 & a_4 \end{pmatrix}

Which dynamics matrices oscillate at 1 Hz without growing or decaying? The draft states no bounds
on the entries. Without bounds the maximum entropy is infinite: along :math:`a_2 \to \infty`,
:math:`a_3 \approx -(2 \pi)^2 / a_2` the property holds forever. The entries therefore lie in a
box, and every entropy here depends on it.

Run as ``python -m models.lds``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from models import report
from numpyro_dsn import DSN, DSNResult, PenaltyMethod, behavior, sensitivity
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP

BOX = 10.0
"""Bound on every entry of A, in 1/s; the published successor's."""


ENTRIES = {"entry": np.array(["a1", "a2", "a3", "a4"])}

NUM_COMPARED = 4000
"""Draws of the fit that is compared with other engines: as many as each of theirs."""


def leading_eigenvalue(a: Array, tau: float = 1.0) -> tuple[Array, Array]:
    r"""Return the eigenvalue of A / tau with the largest real part.

    .. math:: \lambda_1 = \tfrac12 \left( \mathrm{tr} + \sqrt{\mathrm{tr}^2 - 4 \det} \right)

    Gradients are finite everywhere, and zero through the root where the discriminant is zero.

    Parameters
    ----------
    a
        Entries :math:`a_1, a_2, a_3, a_4`, shape ``(4,)``, dimensionless.
    tau
        Time constant in s.

    Returns
    -------
    Real part in 1/s and imaginary part, not negative, in rad/s; each of shape ``()``.

    References
    ----------
    The draft's eq. 6.
    """
    a1, a2, a3, a4 = a / tau
    trace = a1 + a4
    discriminant = (a1 - a4) ** 2 + 4 * a2 * a3
    real_root = _safe_sqrt(discriminant)
    imaginary_root = _safe_sqrt(-discriminant)
    return (trace + real_root) / 2, imaginary_root / 2


def circuit(box: float = BOX) -> None:
    """Draw the entries of A from a flat prior and record the leading eigenvalue.

    Parameters
    ----------
    box
        Bound on every entry of A, in 1/s.
    """
    prior = dist.Uniform(-box * jnp.ones(4), box).to_event(1)
    a = numpyro.sample("a", prior, infer={"event_dims": ["entry"], "units": "1/s"})
    growth, angular = leading_eigenvalue(a)
    numpyro.deterministic("growth", growth)
    numpyro.deterministic("frequency", angular / (2 * jnp.pi))


def paper_band(sites: dict[str, Array]) -> None:
    """Ask for the draft's band, eq. 4: growth 0 with variance 1, 1 Hz with variance 0.025."""
    behavior("growth rate", sites["growth"], Moments(mean=0.0, std=1.0))
    behavior("oscillation", sites["frequency"], Moments(mean=1.0, std=0.025**0.5))


def published_band(sites: dict[str, Array]) -> None:
    """Ask for the published band: variances 0.25^2 (1/s)^2 and 0.1^2 Hz^2."""
    behavior("growth rate", sites["growth"], Moments(mean=0.0, std=0.25))
    behavior("oscillation", sites["frequency"], Moments(mean=1.0, std=0.1))


TARGETS: dict[str, Callable[[dict[str, Array]], None]] = {
    "paper": paper_band,
    "published": published_band,
}


def fit(target: str, seed: int, num_epochs: int) -> DSNResult:
    """Fit one of the bands with the default method.

    Parameters
    ----------
    target
        ``"paper"`` or ``"published"``.
    seed
        Seed of the run.
    num_epochs
        Largest number of epochs.
    """
    return DSN(circuit, TARGETS[target]).run(jax.random.key(seed), num_epochs=num_epochs)


def fit_as_published(
    target: str, seed: int, num_epochs: int, num_steps: int = 5000, penalty_init: float = 1e-4
) -> DSNResult:
    """Fit one of the bands as the draft does (A.1.2): isotropic Gaussian start, penalty method.

    Parameters
    ----------
    target
        ``"paper"`` or ``"published"``.
    seed
        Seed of the run.
    num_epochs, num_steps
        Number of epochs, and of optimizer steps in each.
    penalty_init
        Penalty of the first epoch.
    """
    dsn = DSN(
        circuit,
        TARGETS[target],
        guide=AutoRealNVP(circuit, init_variance=1.0),
        method=PenaltyMethod(penalty_init),
        num_steps=num_steps,
    )
    return dsn.run(jax.random.key(seed), num_epochs=num_epochs)


def draw_figures(data: Any, out: Path) -> list[Path]:
    """Write the draft's Fig. S2 and what the circuits do; directions if the data has them.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    out
        Folder of the figures.

    Returns
    -------
    The files.
    """
    from numpyro_dsn import plots

    figures: dict[str, Callable[[Any], np.ndarray]] = {
        "pair": plots.plot_pair,
        "optimization": plots.plot_optimization,
        "behavior": plots.plot_behavior,
    }
    if hasattr(data, "sensitivity"):
        figures["eigenvectors"] = plots.plot_eigenvectors
    files = []
    for name, draw in figures.items():
        files.append(out / f"{name}.png")
        draw(data).flat[0].figure.savefig(files[-1], dpi=120)
    return files


def sign_of_a2(sites: dict[str, np.ndarray]) -> np.ndarray:
    """Name the mode of each draw: the off-diagonal entries have opposite signs."""
    return np.where(sites["a"][:, 1] > 0, "a2 > 0", "a2 < 0")


def main() -> None:
    """Fit, print the table, and write one netCDF and the figures."""
    parser = argparse.ArgumentParser(description="The 2-D linear dynamical system.")
    parser.add_argument("--out", type=Path, default=Path("out/lds"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, default="paper")
    parser.add_argument("--num-epochs", type=int, default=30)
    parser.add_argument("--as-published", action="store_true", help="use the penalty method")
    parser.add_argument("--penalty-init", type=float, default=1e-4)
    parser.add_argument("--num-steps", type=int, default=5000, help="steps of its epochs")
    parser.add_argument("--compare", action="store_true", help="run NUTS, SMC and ABC too")
    parser.add_argument("--sensitivity", action="store_true", help="find modes and directions")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    common = arguments.target, arguments.seed, arguments.num_epochs
    if arguments.as_published:
        result = fit_as_published(*common, arguments.num_steps, arguments.penalty_init)
    else:
        result = fit(*common)
    result.print_summary()
    data = result.to_inference_data(coords=ENTRIES)
    if arguments.sensitivity:
        low, high = -BOX * jnp.ones(4), BOX * jnp.ones(4)
        found = report.print_sensitivity(result, "a", low, high, jnp.linspace(-0.5, 0.5, 21))
        data = sensitivity.add_modes(data, *found)
    file = arguments.out / "fit.nc"
    data.to_netcdf(str(file), engine="h5netcdf")
    for written in [file, *draw_figures(data, arguments.out)]:
        print(f"wrote {written}")
    if arguments.compare:
        own = result.to_inference_data(num_samples=NUM_COMPARED, coords=ENTRIES)
        datas = {"DSN": own} | report.other_engines(result, arguments.seed, ENTRIES, 60)
        comparison, files = report.write_comparison(datas, "a", sign_of_a2, arguments.out)
        print(comparison)
        for written in files:
            print(f"wrote {written}")


def _safe_sqrt(x: Array) -> Array:
    """Return sqrt(max(x, 0)) with a finite gradient, zero where x is not positive."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


if __name__ == "__main__":
    main()
