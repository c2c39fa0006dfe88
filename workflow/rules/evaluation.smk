"""Evaluation. Takes: the predictions of a model's runs, or released ones. Gives: metrics/…/{model}.parquet, tidy."""


rule released_predictions:
    input:
        table=lookup("cohorts/{cohort}/file", within=config),
    output:
        predictions="results/{cohort}/released/{task}/{protocol}/{model}.parquet",
    log:
        "logs/{cohort}/released/{task}/{protocol}/{model}.log",
    benchmark:
        "benchmarks/{cohort}/released/{task}/{protocol}/{model}.tsv"
    wildcard_constraints:
        cohort=cohorts_from("published_predictions"),
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lookup("cohorts/{cohort}/models/{model}", within=config),
        code=code("published_predictions.py"),
    message:
        "Reading the released predictions of {wildcards.model} on {wildcards.cohort}"
    script:
        "../scripts/published_predictions.py"


rule score:
    input:
        predictions=predictions_to_score,
        slides=slides_to_score,
        slide_index=lambda wildcards: slides_counted(wildcards.cohort, modalities_of(wildcards.cohort, wildcards.task)),
    output:
        metrics="results/{cohort}/metrics/{task}/{protocol}/{model}.parquet",
    log:
        "logs/{cohort}/metrics/{task}/{protocol}/{model}.log",
    benchmark:
        "benchmarks/{cohort}/metrics/{task}/{protocol}/{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        kind=lookup("tasks/{task}/kind", within=config),
        labels=lambda wildcards: {key: wildcards[key] for key in ("cohort", "task", "protocol", "model")}
        | {"scored_on": ""},
        resampled=lambda wildcards: config["protocols"][wildcards.protocol]["n_splits"] == 1,
        anonymous=lambda wildcards: imported(wildcards.cohort),
        code=code("score.py"),
    message:
        "Scoring {wildcards.model} for {wildcards.task} on {wildcards.cohort} ({wildcards.protocol})"
    script:
        "../scripts/score.py"


rule metrics:
    input:
        metrics=lambda wildcards: metrics_of_cohort(wildcards.cohort),
    output:
        metrics="results/{cohort}/metrics.parquet",
    log:
        "logs/{cohort}/metrics.log",
    benchmark:
        "benchmarks/{cohort}/metrics.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("metrics.py"),
    message:
        "Collecting all metrics of {wildcards.cohort}"
    script:
        "../scripts/metrics.py"
