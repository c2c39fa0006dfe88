"""A simulated glioma cohort, written as raw files in the exact public formats.

Every case carries two independent latent factors, `tumour` and `microenvironment`. They drive gene
expression, alterations, the look of the slides, the labels and the hazard; `docs/simulated_cohort.md` lists
every effect with its size.
"""

from histofuse.sources.simulated.settings import Settings
from histofuse.sources.simulated.truth import best_reachable
from histofuse.sources.simulated.write import simulate

__all__ = ["Settings", "best_reachable", "simulate"]
