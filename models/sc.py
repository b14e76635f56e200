r"""Rapid task switching in superior colliculus, the draft's section 3.3.

Which weights between the four populations of :mod:`models.sc_simulator` make the animal go to the
light in Pro trials, and away from it in Anti trials, with accuracy p? Circuits are stochastic:
their accuracy is measured over a finite number of trials.

Run as ``python -m models.sc``.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from models.sc_simulator import (
    DRAFT,
    MODES,
    PERIODS,
    SUCCESSOR,
    TASKS,
    Inactivation,
    Protocol,
    Responses,
    mode_eigenvalues,
    responses,
    simulate,
    symmetric_weight_matrix,
    task_mixing,
    weight_matrix,
)
from numpyro_dsn import DSN, DSNResult, DualNewton, behavior
from numpyro_dsn.constraints import AtLeast, AtMost, Moments

BOX = 5.0
"""Bound on every weight, dimensionless; the published successor's. The draft has none."""

ACCURACIES = (0.5, 0.6, 0.7, 0.8, 0.9)
STRENGTHS = np.array([0.0, 0.3, 0.5, 0.675, 0.85, 1.0])
"""Shares of the activity that are silenced in the predictive check."""

SLACK = 0.05
"""How far responses may be from all-or-none; the tolerance of the draft's convergence test."""

WEIGHTS = {
    4: ("sW", "vW", "hW", "dW"),
    8: ("sW_P", "sW_A", "vW_PA", "vW_AP", "dW_PA", "dW_AP", "hW_P", "hW_A"),
}


def circuit(
    num_weights: int = 4,
    num_trials: int = 200,
    protocol: Protocol = SUCCESSOR,
    inactivation: Inactivation = Inactivation(),  # noqa: B008 - immutable
    published_start: bool = False,
) -> None:
    """Draw weights from a flat prior, run trials of both tasks and record the responses.

    Parameters
    ----------
    num_weights
        4 if the tasks are alike, 8 if they are not.
    num_trials
        Number of trials of each task.
    protocol
        Inputs and noise.
    inactivation
        When and how much all units are silenced.
    published_start
        Whether to start as published, with a wrong sign.

    Raises
    ------
    ValueError
        If the number of weights is neither 4 nor 8.
    """
    if num_weights not in WEIGHTS:
        raise ValueError(f"`num_weights` must be 4 or 8, but is {num_weights}.")
    prior = dist.Uniform(-BOX * jnp.ones(num_weights), BOX).to_event(1)
    z = numpyro.sample("z", prior, infer={"event_dims": ["weight"]})
    weights = symmetric_weight_matrix(z) if num_weights == 4 else weight_matrix(z)
    numpyro.deterministic("eigenvalue", mode_eigenvalues(weights))
    numpyro.deterministic("task_mixing", task_mixing(weights))
    key = numpyro.prng_key()
    v = simulate(key, weights, num_trials, protocol, inactivation, published_start)
    for name, value in responses(v)._asdict().items():
        numpyro.deterministic(name, value)


def accurate(sites: dict[str, Array], accuracy: float = 0.75, std: float = 0.075) -> None:
    """Ask for an accuracy in both tasks, as the published successor does.

    Parameters
    ----------
    sites
        Sites of the circuit.
    accuracy, std
        Mean and standard deviation over circuits of the share of correct trials. The latter
        includes the noise of finite trials.
    """
    behavior("performance", sites["accuracy"], Moments(np.full(2, accuracy), np.full(2, std)))


def decided(sites: dict[str, Array], accuracy: float = 0.75, std: float = 0.15) -> None:
    """Ask for an accuracy, Bernoulli responses and that the winner takes all, as the draft does.

    The draft asks for the extreme values of the last two, 0 and 1, which a mean over circuits has
    only if every trial of every circuit has them. Here they need only be close: within the
    tolerance of the draft's convergence test.

    Parameters
    ----------
    sites
        Sites of the circuit.
    accuracy, std
        Mean and standard deviation over circuits of the response.
    """
    behavior("performance", sites["response"], Moments(np.full(2, accuracy), np.full(2, std)))
    behavior("all or none", sites["indecision"], AtMost(np.full(2, SLACK)))
    behavior("winner takes all", sites["contrast"], AtLeast(np.full(2, 1 - SLACK)))


def decided_as_drafted(sites: dict[str, Array], accuracy: float = 0.75, std: float = 0.15) -> None:
    """Ask for the draft's equalities, which have no maximum-entropy solution.

    They hold at the ends of what the statistics can be, so no multiplier is large enough; only
    circuits whose units saturate to exactly 0 and 1 in float32 are there.

    Parameters
    ----------
    sites, accuracy, std
        As for :func:`decided`.
    """
    behavior("performance", sites["response"], Moments(np.full(2, accuracy), np.full(2, std)))
    behavior("all or none", sites["indecision"], Moments(np.zeros(2)))
    behavior("winner takes all", sites["contrast"], Moments(np.ones(2)))


class Setting(NamedTuple):
    """A circuit and a behavior that belong together.

    num_weights, protocol, num_trials
        Arguments of :func:`circuit`.
    behavior
        Function of sites, accuracy and standard deviation.
    std
        Standard deviation of the accuracy over circuits.
    """

    num_weights: int
    protocol: Protocol
    num_trials: int
    behavior: Any
    std: float


SETTINGS = {
    "successor": Setting(4, SUCCESSOR, 200, accurate, 0.075),
    "draft": Setting(8, DRAFT, 500, decided, 0.15),
}


def std_of_trials(std: float, accuracy: float, num_published: int, num_trials: int) -> float:
    r"""Return the standard deviation that asks the same of circuits with other trial numbers.

    .. math:: \sigma_N^2 = V + \frac{p (1 - p) - V}{N}

    where V is the variance of the accuracy of infinitely many trials, the same for both numbers.
    Exact if every trial is right or wrong.

    Parameters
    ----------
    std
        Standard deviation of the accuracy that was published.
    accuracy
        Its mean p.
    num_published, num_trials
        Number of trials that it was published for, and that are run.

    Raises
    ------
    ValueError
        If the noise of the published trials alone exceeds the standard deviation.
    """
    single = accuracy * (1 - accuracy)
    between = (std**2 - single / num_published) / (1 - 1 / num_published)
    if between <= 0:
        raise ValueError(
            f"`std` is {std}, but {num_published} trials of accuracy {accuracy} alone have "
            f"{(single / num_published) ** 0.5:.3f}; ask for more."
        )
    return (between + (single - between) / num_trials) ** 0.5


def problem(
    name: str = "successor", accuracy: float = 0.75, num_trials: int | None = None
) -> tuple[Any, Any]:
    """Return the model and the behavior of a setting.

    With another number of trials, the standard deviation is that of the same circuits.

    Parameters
    ----------
    name
        ``"successor"`` or ``"draft"``.
    accuracy
        Accuracy in both tasks.
    num_trials
        Number of trials of each task; the published number by default, and at least 2.

    Raises
    ------
    ValueError
        If the number of trials is less than 2, where accuracy says nothing about a circuit.
    """
    setting = SETTINGS[name]
    trials = setting.num_trials if num_trials is None else num_trials
    if trials < 2:
        raise ValueError(f"`num_trials` must be at least 2, but is {trials}.")
    # Bound here and not given to `run`, where a number of trials could become a tracer.
    model = partial(circuit, setting.num_weights, trials, setting.protocol)
    std = std_of_trials(setting.std, accuracy, setting.num_trials, trials)
    return model, partial(setting.behavior, accuracy=accuracy, std=std)


def fit(
    name: str,
    accuracy: float,
    seed: int,
    num_epochs: int,
    num_trials: int | None = None,
    num_replicates: int = 2,
) -> DSNResult:
    """Fit one accuracy.

    Parameters
    ----------
    name, accuracy, num_trials
        As for :func:`problem`.
    seed
        Seed of the run.
    num_epochs
        Largest number of epochs.
    num_replicates
        Number of simulations of each circuit, each of ``num_trials`` trials.
    """
    method = DualNewton(num_replicates=num_replicates)
    dsn = DSN(*problem(name, accuracy, num_trials), multipliers=method)
    return dsn.run(jax.random.key(seed), num_epochs=num_epochs)


def silence(
    result: DSNResult, rng_key: Array, strengths: ArrayLike, period: str = "delay"
) -> Array:
    """Return the accuracy of circuits of a fit when they are silenced.

    The same circuits with the same noise at every strength.

    Parameters
    ----------
    result
        A fit of a :func:`problem`.
    rng_key
        Key of the draws and of the noise.
    strengths
        Share of the activity that is lost, shape ``(num_strengths,)``.
    period
        One of ``PERIODS``: ``"delay"``, ``"choice"`` or ``"total"``.

    Returns
    -------
    Accuracies, shape ``(num_strengths, num_samples, 2)``.
    """
    draw_key, noise_key = jax.random.split(rng_key)
    draws = {"z": result.sample(draw_key)["z"]}

    def measure(strength: float) -> Array:
        condition = Inactivation(strength, *PERIODS[period])
        return result.predictive(noise_key, values=draws, inactivation=condition)["accuracy"]

    return jnp.stack([measure(strength) for strength in np.asarray(strengths)])


def tabulate(fits: dict[float, DSNResult]) -> str:
    """Return mean and standard deviation of every mode's eigenvalue, one line an accuracy."""
    lines = ["accuracy  " + "  ".join(f"{mode:>14}" for mode in MODES)]
    for accuracy, result in sorted(fits.items()):
        values = np.asarray(result.get_samples()["eigenvalue"])
        cells = (
            f"{mean:+6.2f} +- {std:4.2f}"
            for mean, std in zip(values.mean(0), values.std(0), strict=True)
        )
        lines.append(f"{accuracy:8.2f}  " + "  ".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def to_data(result: DSNResult) -> Any:
    """Return InferenceData or DataTree with the names of weights, modes and tasks."""
    num_weights = result.fit.program.latents["z"]["value"].size
    coords = {"weight": list(WEIGHTS[num_weights]), "mode": list(MODES), "task": list(TASKS)}
    by_task = [*Responses._fields, *result.fit.program.constraints]
    dims = {"eigenvalue": ["mode"]} | {name: ["task"] for name in by_task}
    return result.to_inference_data(coords=coords, dims=dims)


def main() -> None:
    """Fit one accuracy or five, print the tables, and write netCDF files and figures."""
    parser = argparse.ArgumentParser(description="Rapid task switching in superior colliculus.")
    parser.add_argument("--out", type=Path, default=Path("out/sc"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setting", choices=SETTINGS, default="successor")
    parser.add_argument("--accuracy", type=float, default=0.75)
    parser.add_argument("--all", action="store_true", help=f"fit all of {ACCURACIES}")
    parser.add_argument("--num-epochs", type=int, default=30)
    parser.add_argument("--num-trials", type=int, help="trials of each task")
    parser.add_argument("--num-replicates", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    from models import sc_figures  # matplotlib is only needed here

    written, fits, datasets = [], {}, {}
    for accuracy in ACCURACIES if arguments.all else (arguments.accuracy,):
        print(f"accuracy {accuracy}")
        result = fit(
            arguments.setting,
            accuracy,
            arguments.seed,
            arguments.num_epochs,
            arguments.num_trials,
            arguments.num_replicates,
        )
        result.print_summary()
        fits[accuracy], datasets[accuracy] = result, to_data(result)
        file = arguments.out / f"fit_{accuracy}.nc"
        datasets[accuracy].to_netcdf(str(file), engine="h5netcdf")
        written += [file, *sc_figures.draw_fit(datasets[accuracy], arguments.out, str(accuracy))]
        accuracies = silence(result, jax.random.key(arguments.seed), STRENGTHS)
        written.append(arguments.out / f"silencing_{accuracy}.png")
        axis = sc_figures.plot_silencing(STRENGTHS, np.asarray(accuracies))
        axis.figure.savefig(written[-1], dpi=120)
    print(tabulate(fits))
    written.append(arguments.out / "eigenvalues.png")
    sc_figures.plot_eigenvalues(datasets)[0].figure.savefig(written[-1], dpi=120)
    for file in written:
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
