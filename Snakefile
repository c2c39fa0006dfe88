"""From raw TCGA and IvyGAP downloads to the tables and figures of three papers; see README.md."""

from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config/models.yaml"


# A configuration given with --configfile stands alone: nothing of the demo takes the place of what it lacks.
if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "workflow/rules/locks.smk"
include: "workflow/rules/validation.smk"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common_cohorts.smk"
include: "workflow/rules/common_tuning.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/common_code.smk"
include: "workflow/rules/common_slides.smk"
include: "workflow/rules/common_runs.smk"
include: "workflow/rules/common_embeddings.smk"
include: "workflow/rules/common_external.smk"
include: "workflow/rules/common_paper.smk"
include: "workflow/rules/references.smk"
include: "workflow/rules/common_figures.smk"
include: "workflow/rules/common_heatmaps.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/slides.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/genomics.smk"
include: "workflow/rules/embeddings.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/heatmaps.smk"
include: "workflow/rules/importance.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/external.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/paper.smk"


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.report.output,
