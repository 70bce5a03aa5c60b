"""The command ``faceflax``: one module a subcommand, and what they share."""

from faceflax.cli.command import run
from faceflax.cli.metavars import Weights
from faceflax.cli.plugins import Explainer, explainer
from faceflax.cli.reporting import ReportOptions

__all__ = ["Explainer", "ReportOptions", "Weights", "explainer", "run"]
