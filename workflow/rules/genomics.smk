"""Genomics. Takes: receipts of expression, mutation and copy-number files, or of a published table.
Gives: genomics/expression.h5ad (counts, TPM, log-TPM), expression.parquet and alterations.parquet (one row per case),
cdkn2a.parquet (its calls, by which WHO 2021 grades astrocytomas), selections/{selection}/{protocol}.parquet (highly variable genes per split), gene_groups.tsv and gene_filters.tsv.
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
        cohort=cohorts_laid_out_as("gdc"),
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


rule expression_ivygap:
    input:
        receipts=lambda wildcards: receipts(
            wildcards.cohort, "ivygap_expression", "ivygap_samples", "ivygap_sub_blocks"
        ),
    output:
        h5ad="results/{cohort}/genomics/expression.h5ad",
        expression="results/{cohort}/genomics/expression.parquet",
        samples="results/{cohort}/genomics/samples.h5ad",
        excluded="results/{cohort}/genomics/excluded_expression.tsv",
    log:
        "logs/{cohort}/genomics/expression.log",
    benchmark:
        "benchmarks/{cohort}/genomics/expression.tsv"
    wildcard_constraints:
        cohort=cohorts_laid_out_as("ivygap"),
    conda:
        "../../envs/genomics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=lambda wildcards: config["cohorts"][wildcards.cohort].get("genomics", {}),
        code=code("expression_ivygap.py"),
    message:
        "Collecting the expression of the tumours of {wildcards.cohort}"
    script:
        "../scripts/expression_ivygap.py"


rule join_expression:
    input:
        members=lambda wildcards: [f"results/{name}/genomics/expression.h5ad" for name in members(wildcards.cohort)],
    output:
        h5ad="results/{cohort}/genomics/expression.h5ad",
        expression="results/{cohort}/genomics/expression.parquet",
    log:
        "logs/{cohort}/genomics/expression.log",
    benchmark:
        "benchmarks/{cohort}/genomics/expression.tsv"
    wildcard_constraints:
        cohort=cohorts_laid_out_as("meta"),
    conda:
        "../../envs/genomics.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        names=lambda wildcards: members(wildcards.cohort),
        code=code("join_expression.py"),
    message:
        "Joining the expression of the cohorts of {wildcards.cohort} on the genes they share"
    script:
        "../scripts/join_expression.py"


rule alterations:
    input:
        receipts=lambda wildcards: receipts(wildcards.cohort, "mutations", "copy_number"),
    output:
        alterations="results/{cohort}/genomics/alterations.parquet",
        of_diagnosis="results/{cohort}/genomics/cdkn2a.parquet",
        excluded="results/{cohort}/genomics/excluded_alterations.tsv",
    log:
        "logs/{cohort}/genomics/alterations.log",
    benchmark:
        "benchmarks/{cohort}/genomics/alterations.tsv"
    wildcard_constraints:
        cohort=cohorts_laid_out_as("gdc"),
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


rule gene_selection:
    input:
        expression="results/{cohort}/genomics/expression.parquet",
        h5ad=lambda wildcards: counts_for(wildcards.cohort, wildcards.selection),
        panel=lambda wildcards: panel_for(wildcards.selection),
        cases="results/{cohort}/cases.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
    output:
        selection="results/{cohort}/genomics/selections/{selection}/{protocol}.parquet",
    log:
        "logs/{cohort}/genomics/selections/{selection}/{protocol}.log",
    benchmark:
        "benchmarks/{cohort}/genomics/selections/{selection}/{protocol}.tsv"
    conda:
        "../../envs/genomics.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=lookup("gene_selections/{selection}", within=config),
        code=code("gene_selection.py"),
    message:
        "Choosing highly variable genes of {wildcards.cohort} ({wildcards.selection}) per split of {wildcards.protocol}"
    script:
        "../scripts/gene_selection.py"


rule gene_groups:
    input:
        groups=GENE_GROUPS,
        expression="results/{cohort}/genomics/expression.parquet",
    output:
        groups="results/{cohort}/genomics/gene_groups.tsv",
        report="results/{cohort}/genomics/gene_groups_report.tsv",
    log:
        "logs/{cohort}/genomics/gene_groups.log",
    benchmark:
        "benchmarks/{cohort}/genomics/gene_groups.tsv"
    conda:
        "../../envs/genomics.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("gene_groups.py"),
    message:
        "Finding the gene groups in the expression of {wildcards.cohort}"
    script:
        "../scripts/gene_groups.py"


rule gene_filters:
    input:
        groups="results/{cohort}/genomics/gene_groups.tsv",
        report="results/{cohort}/genomics/gene_groups_report.tsv",
        selections=lambda wildcards: selections_of_cohort(wildcards.cohort),
    output:
        filters="results/{cohort}/genomics/gene_filters.tsv",
    log:
        "logs/{cohort}/genomics/gene_filters.log",
    benchmark:
        "benchmarks/{cohort}/genomics/gene_filters.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("gene_filters.py"),
    message:
        "Counting what each filter leaves of the gene groups of {wildcards.cohort}"
    script:
        "../scripts/gene_filters.py"
