"""External cohorts: rows with `scored_on`. Takes: weights and predictions of a run, its cohort's files and those of the
other cohort. Gives: populations_scored/{task}.parquet of that cohort, predictions of its cases, their metrics."""


rule population_scored:
    input:
        modalities=lambda wildcards: list(modalities_scored(wildcards.cohort, wildcards.task).values()),
        cases="results/{cohort}/cases.parquet",
    output:
        population="results/{cohort}/populations_scored/{task}.parquet",
        excluded="results/{cohort}/populations_scored/{task}_excluded.tsv",
    log:
        "logs/{cohort}/populations_scored/{task}.log",
    benchmark:
        "benchmarks/{cohort}/populations_scored/{task}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        task=lambda wildcards: task_settings(wildcards.task),
        modalities=lambda wildcards: [in_words(name) for name in modalities_scored(wildcards.cohort, wildcards.task)],
        every_class=False,
        code=code("population.py"),
    message:
        "Finding the cases of {wildcards.cohort} that models of other cohorts are scored on for {wildcards.task}"
    script:
        "../scripts/population.py"


rule predict_external:
    input:
        unpack(files_to_score),
        population="results/{cohort}/populations/{task}.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/weights.safetensors",
        predictions="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/predictions.parquet",
        external_population="results/{external}/populations_scored/{task}.parquet",
    output:
        predictions="results/{cohort}/scored_on/{external}/{task}/{protocol}/{model}/split{split}/seed{seed}/predictions.parquet",
        slides="results/{cohort}/scored_on/{external}/{task}/{protocol}/{model}/split{split}/seed{seed}/slides.parquet",
    log:
        "logs/{cohort}/scored_on/{external}/{task}/{protocol}/{model}/split{split}/seed{seed}.log",
    benchmark:
        "benchmarks/{cohort}/scored_on/{external}/{task}/{protocol}/{model}/split{split}/seed{seed}.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: MODELS[wildcards.model].get("gpu", 1),
        mem_mb=lambda wildcards: MODELS[wildcards.model].get("mem_mb", 4000),
        runtime=60,
    params:
        task=lambda wildcards: task_settings(wildcards.task),
        class_files=lambda wildcards: class_files(wildcards.model),
        called=lambda wildcards: layout(wildcards.external) == "gdc",
        joined=lambda wildcards: layout(wildcards.cohort) == "meta",
        code=lambda wildcards: code("predict_external.py", *class_files(wildcards.model).values()),
    message:
        "Predicting the cases of {wildcards.external} with {wildcards.model} for {wildcards.task}, trained on "
        "{wildcards.cohort}, {wildcards.protocol} split {wildcards.split}, seed {wildcards.seed}"
    script:
        "../scripts/predict_external.py"


rule score_external:
    input:
        predictions=lambda wildcards: predictions_on_external(wildcards, "predictions"),
        slides=lambda wildcards: predictions_on_external(wildcards, "slides"),
        slide_index=lambda wildcards: slides_counted(
            wildcards.external, modalities_scored(wildcards.external, wildcards.task)
        ),
    output:
        metrics="results/{cohort}/metrics_on/{external}/{task}/{protocol}/{model}.parquet",
    log:
        "logs/{cohort}/metrics_on/{external}/{task}/{protocol}/{model}.log",
    benchmark:
        "benchmarks/{cohort}/metrics_on/{external}/{task}/{protocol}/{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        kind=lookup("tasks/{task}/kind", within=config),
        labels=lambda wildcards: {key: wildcards[key] for key in ("cohort", "task", "protocol", "model")}
        | {"scored_on": wildcards.external},
        code=code("score_external.py"),
    message:
        "Scoring {wildcards.model}, trained on {wildcards.cohort} ({wildcards.protocol}), for {wildcards.task} on "
        "{wildcards.external}"
    script:
        "../scripts/score_external.py"
