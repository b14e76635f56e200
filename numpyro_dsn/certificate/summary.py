"""The printed table of a fit."""

import textwrap
from typing import TYPE_CHECKING

import jax
import numpy as np

from numpyro_dsn.certificate.certificate import Certificate
from numpyro_dsn.solver.history import Epoch, History

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult

LINE_LENGTH = 100


def format_summary(result: "DSNResult") -> str:
    """Return a table of statistics and a few lines about the fit.

    Parameters
    ----------
    result
        The fit.

    Returns
    -------
    The table, as wide as it needs to be, and lines of at most 100 characters.
    """
    measured, labels = result.measured, result.fit.program.labels
    epoch, num_chains = int(result.epochs[result.chain]), len(result.epochs)
    spent, seconds = result.history.epochs.num_simulations.sum(), result.history.seconds.sum()
    lines = [
        *_table(result),
        "",
        f"entropy {measured.entropy:.4f} +- {measured.entropy_se:.4f} nats",
        f"KL to prior {measured.kl_to_prior:.4f} nats",
        f"chain {result.chain} of {num_chains}, epoch {epoch}",
        f"{spent:,.0f} simulations, {seconds:.0f} s with compilation",
        *_stray_lines(measured, labels),
    ]
    if not np.isnan(measured.gap):
        lines += _certificate_lines(result.certificate)
    lines += textwrap.wrap(f"{result.status.name}: {result.status.value}", LINE_LENGTH)
    return "\n".join(lines)


def _table(result: "DSNResult") -> list[str]:
    """Return one line for each statistic; violations are in units of what was asked."""
    program, measured = result.fit.program, result.measured
    rows = [("statistic", "target", "achieved", "std. error", "violation/unit", "multiplier")]
    for index, label in enumerate(program.labels):
        row = (
            label,
            _target(float(program.lower[index]), float(program.upper[index])),
            f"{measured.mean[index]:.5g}",
            f"{measured.mean_se[index]:.2g}",
            f"{measured.violation[index]:+.3f}",
            f"{measured.multipliers[index]:.4g}",
        )
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _stray_lines(measured: Epoch, labels: list[str]) -> list[str]:
    """Return what fraction of draws does not run, or is far out, and at which statistic most."""
    lines = []
    if measured.nonfinite > 0:
        worst = labels[int(np.argmax(measured.failed))]
        lines.append(
            f"{measured.nonfinite:.2%} of draws have NaN or infinite statistics, left out; most "
            f"often {worst}, in {measured.failed.max():.2%}"
        )
    if measured.beyond.max() > 0:
        worst = labels[int(np.argmax(measured.beyond))]
        lines.append(f"{measured.beyond.max():.3%} of draws are so far out that {worst} is bounded")
    if measured.skipped > 0:
        lines.append(f"{measured.skipped:.2%} of steps left out: their gradient was not finite")
    return lines


def _certificate_lines(certificate: Certificate) -> list[str]:
    missed = "cannot tell"
    if not np.isnan(certificate.missed_mass):
        missed = f"{certificate.missed_mass:.1%} +- {certificate.missed_mass_se:.1%}"
    kept = (
        f"draws of the flow that the circuit keeps: {certificate.acceptance:.1%}; with all of them "
        f"the distance is {certificate.flow_gap:.4f} nats"
    )
    return [
        f"distance to maximum entropy {certificate.gap:.4f} +- {certificate.gap_se:.4f} nats, "
        f"effective draws {certificate.ess:.0f}, Pareto k {certificate.pareto_k:.2f}",
        f"mass of the optimum that is not covered: {missed}",
        # Without rejection the two are one number.
        *([kept] if certificate.flow_gap != certificate.gap else []),
        *textwrap.wrap(certificate.verdict, LINE_LENGTH),
    ]


def progress_text(history: History) -> str:
    """Return what the progress bar says after an epoch: entropy, largest violation, gap."""
    last = jax.tree.map(lambda leaf: leaf[-1], history.epochs)
    worst = np.abs(last.violation).max()
    text = f"entropy {np.mean(last.entropy):.3f}, violation {worst:.3f}"
    if np.isfinite(last.gap).all():
        text += f", gap {last.gap.max():.3f}"
    text += f", converged {int(last.converged.sum())}/{last.converged.size}"
    if last.nonfinite.max() > 0:
        text += f", non-finite {last.nonfinite.max():.1%}"
    return text


def _target(lower: float, upper: float) -> str:
    if lower == upper:
        return f"{lower:.5g}"
    if np.isinf(upper):
        return f">= {lower:.5g}"
    return f"<= {upper:.5g}" if np.isinf(lower) else f"[{lower:.5g}, {upper:.5g}]"
