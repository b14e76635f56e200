"""The printed table of a comparison."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpyro_dsn.comparison.comparison import Comparison
    from numpyro_dsn.comparison.estimates import Estimate


def format_comparison(comparison: "Comparison") -> str:
    """Return tables of cost and diagnostics, statistics, moments of the latents, and distances."""
    rows = comparison.rows
    modes = list(next(iter(rows.values())).modes)
    head = ["", "entropy", "violation/unit", "simulations", "seconds", "ESS", "R-hat", "divergent"]
    summary = [[*head, *(f"mode {label}" for label in modes)]]
    for name, row in rows.items():
        cells = [
            name,
            _with_error(row.entropy),
            _number(row.violation, ".3f"),
            _number(row.num_simulations, ",.0f"),
            _number(row.sampling_time, ".1f"),
            _number(row.ess, ".0f"),
            _number(row.r_hat, ".3f"),
            _number(row.divergences, ".0f"),
        ]
        summary.append([*cells, *(_with_error(fraction) for fraction in row.modes.values())])
    achieved = _by_method("E[T]", {name: row.statistics for name, row in rows.items()})
    means = _by_method("mean", {name: row.means for name, row in rows.items()})
    stds = _by_method("standard deviation", {name: row.stds for name, row in rows.items()})
    head = ["distance / sd", "latents", "95 % by chance", "statistics", "95 % by chance"]
    distances = [head]
    for (one, other), (latents, statistics) in comparison.distances.items():
        numbers = latents.value, latents.noise, statistics.value, statistics.noise
        distances.append([f"{one} - {other}", *(f"{number:.3f}" for number in numbers)])
    tables = [summary, achieved, means, stds, *([distances] if comparison.distances else [])]
    return "\n\n".join(_align(table) for table in tables)


def _by_method(title: str, estimates: "dict[str, dict[str, Estimate]]") -> list[list[str]]:
    """Return one line for each label and one column for each method."""
    labels = next(iter(estimates.values()))
    lines = [
        [label, *(_with_error(found[label]) for found in estimates.values())] for label in labels
    ]
    return [[title, *estimates], *lines]


def _align(table: list[list[str]]) -> str:
    """Return rows as lines: the first column on the left, the others on the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _number(value: float, form: str) -> str:
    return "-" if np.isnan(value) else format(value, form)


def _with_error(estimate: "Estimate") -> str:
    """Return ``mean +- error`` with two digits of the error."""
    mean, error = estimate
    if np.isnan(mean):
        return "-"
    if not np.isfinite(error) or error <= 0:
        return f"{mean:.4g}"
    digits = max(1 - int(np.floor(np.log10(error))), 0)
    return f"{mean:.{digits}f} +- {error:.{digits}f}"
