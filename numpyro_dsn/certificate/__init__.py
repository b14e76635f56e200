"""What one may believe of a fit: bound, gap, missed mass, corrected draws, verdict, summary."""

from numpyro_dsn.certificate.certificate import Certificate, Tolerances, certify
from numpyro_dsn.certificate.corrected import draw_corrected
from numpyro_dsn.certificate.summary import format_summary, progress_text
from numpyro_dsn.certificate.verdict import infeasible

__all__ = [
    "Certificate",
    "Tolerances",
    "certify",
    "draw_corrected",
    "format_summary",
    "infeasible",
    "progress_text",
]
