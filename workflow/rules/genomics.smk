"""Genomics. Takes: receipts of expression, mutation and copy-number files, or of a published table.
Gives: genomics/expression.h5ad (counts, TPM, log-TPM), expression.parquet and alterations.parquet (one row per case).
"""


rule expression:
    input:
        receipts=lambda wildcards: receipts(wildcards.cohort, "expression"),
    output:
        h5ad="results/{cohort}/genomics/expression.h5ad",
        expression="results/{cohort}/genomics/expression.parquet",
        excluded="results/{cohort}/genomics/excluded_expression.tsv",
    log:
        "logs/{cohort}/genomics/expression.log",
    benchmark:
        "benchmarks/{cohort}/genomics/expression.tsv"
    wildcard_constraints:
        cohort=cohorts_from("simulated", "gdc"),
    conda:
        "../../envs/genomics.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=lambda wildcards: config["cohorts"][wildcards.cohort].get("genomics", {}),
        code=code("expression.py"),
    message:
        "Collecting the expression of {wildcards.cohort}"
    script:
        "../scripts/expression.py"


rule alterations:
    input:
        receipts=lambda wildcards: receipts(wildcards.cohort, "mutations", "copy_number"),
    output:
        alterations="results/{cohort}/genomics/alterations.parquet",
        excluded="results/{cohort}/genomics/excluded_alterations.tsv",
    log:
        "logs/{cohort}/genomics/alterations.log",
    benchmark:
        "benchmarks/{cohort}/genomics/alterations.tsv"
    wildcard_constraints:
        cohort=cohorts_from("simulated", "gdc"),
    conda:
        "../../envs/genomics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=lambda wildcards: config["cohorts"][wildcards.cohort].get("genomics", {}),
        code=code("alterations.py"),
    message:
        "Calling mutations and copy number of {wildcards.cohort}"
    script:
        "../scripts/alterations.py"


rule published_matrices:
    input:
        receipt=lambda wildcards: receipts(wildcards.cohort, "table")[0],
    output:
        expression="results/{cohort}/genomics/expression.parquet",
        alterations="results/{cohort}/genomics/alterations.parquet",
    log:
        "logs/{cohort}/genomics/published_matrices.log",
    benchmark:
        "benchmarks/{cohort}/genomics/published_matrices.tsv"
    wildcard_constraints:
        cohort=cohorts_from("published_tables"),
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("published_matrices.py"),
    message:
        "Taking expression and alterations of {wildcards.cohort} out of its published table"
    script:
        "../scripts/published_matrices.py"
