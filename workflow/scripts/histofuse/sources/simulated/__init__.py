"""A simulated glioma cohort, written as raw files in the exact public formats.

Every case carries two independent latent factors, `tumour` and `microenvironment`. They drive gene expression,
alterations, the look of the slides, the labels and the hazard. `docs/simulated_cohort.md` lists every effect.
"""

from histofuse.sources.simulated.cohort import Case, draw_case, draw_cases
from histofuse.sources.simulated.settings import Settings
from histofuse.sources.simulated.truth import best_reachable
# from histofuse.sources.simulated.write import simulate

__all__ = ["Case", "Settings", "best_reachable", "draw_case", "draw_cases"]
