"""Cases. Takes: receipts of clinical files. Gives: cases.parquet, splits/{protocol}.parquet, populations/{task}.parquet.
Cases without a follow-up are in excluded_cases.tsv and in the table: survival tasks alone set them aside."""


rule cases:
    input:
        manifest="resources/{cohort}/manifest.tsv",
        receipts=lambda wildcards: receipts(wildcards.cohort, "clinical", "molecular", "table"),
        cdkn2a=lambda wildcards: (
            f"results/{wildcards.cohort}/genomics/cdkn2a.parquet" if receipts(wildcards.cohort, "copy_number") else []
        ),
    output:
        cases="results/{cohort}/cases.parquet",
        excluded="results/{cohort}/excluded_cases.tsv",
    log:
        "logs/{cohort}/cases.log",
    benchmark:
        "benchmarks/{cohort}/cases.tsv"
    wildcard_constraints:
        cohort=cohorts_laid_out_as("gdc", "published_tables"),
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda wildcards: cohort_settings(wildcards.cohort),
        code=code("cases.py"),
    message:
        "Building the case table of {wildcards.cohort}"
    script:
        "../scripts/cases.py"


rule cases_ivygap:
    input:
        manifest="resources/{cohort}/manifest.tsv",
        receipts=lambda wildcards: receipts(wildcards.cohort, "ivygap_tumors", "ivygap_sub_blocks"),
        expression="results/{cohort}/genomics/expression.parquet",
    output:
        cases="results/{cohort}/cases.parquet",
        excluded="results/{cohort}/excluded_cases.tsv",
    log:
        "logs/{cohort}/cases.log",
    benchmark:
        "benchmarks/{cohort}/cases.tsv"
    wildcard_constraints:
        cohort=cohorts_laid_out_as("ivygap"),
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: cohort_settings(wildcards.cohort),
        code=code("cases_ivygap.py"),
    message:
        "Building the case table of {wildcards.cohort}"
    script:
        "../scripts/cases_ivygap.py"


rule join_cases:
    input:
        members=lambda wildcards: [f"results/{name}/cases.parquet" for name in members(wildcards.cohort)],
        excluded=lambda wildcards: [f"results/{name}/excluded_cases.tsv" for name in members(wildcards.cohort)],
    output:
        cases="results/{cohort}/cases.parquet",
        excluded="results/{cohort}/excluded_cases.tsv",
    log:
        "logs/{cohort}/cases.log",
    benchmark:
        "benchmarks/{cohort}/cases.tsv"
    wildcard_constraints:
        cohort=cohorts_laid_out_as("meta"),
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        names=lambda wildcards: members(wildcards.cohort),
        code=code("join_cases.py"),
    message:
        "Joining the cases of the cohorts of {wildcards.cohort}"
    script:
        "../scripts/join_cases.py"


rule splits:
    input:
        cases="results/{cohort}/cases.parquet",
        excluded="results/{cohort}/excluded_cases.tsv",
        receipts=lambda wildcards: receipts_of_splits(wildcards.cohort, wildcards.protocol),
    output:
        splits="results/{cohort}/splits/{protocol}.parquet",
    log:
        "logs/{cohort}/splits/{protocol}.log",
    benchmark:
        "benchmarks/{cohort}/splits/{protocol}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        protocol=lambda wildcards: config["protocols"][wildcards.protocol] | {"name": wildcards.protocol},
        code=code("splits.py"),
    message:
        "Splitting {wildcards.cohort} by {wildcards.protocol}"
    script:
        "../scripts/splits.py"


rule population:
    input:
        modalities=lambda wildcards: list(modalities_of(wildcards.cohort, wildcards.task).values()),
        cases="results/{cohort}/cases.parquet",
    output:
        population="results/{cohort}/populations/{task}.parquet",
        excluded="results/{cohort}/populations/{task}_excluded.tsv",
    log:
        "logs/{cohort}/populations/{task}.log",
    benchmark:
        "benchmarks/{cohort}/populations/{task}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        task=lambda wildcards: task_settings(wildcards.task),
        modalities=lambda wildcards: [in_words(name) for name in modalities_of(wildcards.cohort, wildcards.task)],
        every_class=True,
        code=code("population.py"),
    message:
        "Finding the cases of {wildcards.cohort} that take part in {wildcards.task}"
    script:
        "../scripts/population.py"
