"""Tuning. Takes: what training takes. Gives per model and split: tuning/tuning.json (the chosen settings), trials
and the weights of the best of them, for models that start from these; per tuned table: results/tunings/{table}.csv.
"""


rule inner_splits:
    input:
        cases="results/{cohort}/cases.parquet",
        population="results/{cohort}/populations/{task}.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
    output:
        splits="results/{cohort}/inner_splits/{task}/{protocol}/{tuning}.parquet",
    log:
        "logs/{cohort}/inner_splits/{task}/{protocol}/{tuning}.log",
    benchmark:
        "benchmarks/{cohort}/inner_splits/{task}/{protocol}/{tuning}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        tuning=lambda wildcards: {key: config["tunings"][wildcards.tuning][key] for key in ("inner", "seed")},
        code=code("inner_splits.py"),
    message:
        "Cutting the training parts of {wildcards.cohort} ({wildcards.task}, {wildcards.protocol}) for tuning"
    script:
        "../scripts/inner_splits.py"


rule tune:
    input:
        unpack(inputs_of_run),
        population="results/{cohort}/populations/{task}.parquet",
        splits=inner_splits_of,
    output:
        tuning="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning/tuning.json",
        trials="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning/trials.parquet",
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning/weights.safetensors",
    log:
        "logs/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning.log",
    benchmark:
        "benchmarks/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: MODELS[wildcards.model].get("gpu", 1),
        mem_mb=lambda wildcards: MODELS[wildcards.model].get("mem_mb", 4000),
        runtime=lambda wildcards: MODELS[wildcards.model].get("runtime", 240) * tuning_of(wildcards)["trials"],
    params:
        model=lambda wildcards: model_settings(wildcards.model, wildcards.task),
        tuning=tuning_of,
        trials=lambda wildcards: tuning_of(wildcards)["trials"],
        task=lambda wildcards: task_settings(wildcards.task),
        class_files=lambda wildcards: class_files(wildcards.model),
        checkpoint="resources/checkpoints/{cohort}/{task}/{protocol}/{model}/split{split}/tuning",
        code=lambda wildcards: code("tune.py", *class_files(wildcards.model).values()),
    message:
        "Tuning {wildcards.model} for {wildcards.task} on {wildcards.cohort}, {wildcards.protocol} split "
        "{wildcards.split}: {params.trials} trials"
    script:
        "../scripts/tune.py"


use rule vectors as vectors_of_tuning with:
    input:
        unpack(inputs_of_run),
        population="results/{cohort}/populations/{task}.parquet",
        splits=inner_splits_of,
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning/weights.safetensors",
        tuning="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning/tuning.json",
    output:
        vectors="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning/vectors.parquet",
    log:
        "logs/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning_vectors.log",
    benchmark:
        "benchmarks/{cohort}/runs/{task}/{protocol}/{model}/split{split}/tuning_vectors.tsv"
    message:
        "Vectors of {wildcards.model} as tuned for {wildcards.task} on {wildcards.cohort}, {wildcards.protocol} split "
        "{wildcards.split}"


rule tunings:
    input:
        trials=lambda wildcards: list(trials_of(wildcards.table)),
    output:
        csv="results/tunings/{table}.csv",
    log:
        "logs/tunings/{table}.log",
    benchmark:
        "benchmarks/tunings/{table}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        labels=lambda wildcards: list(trials_of(wildcards.table).values()),
        code=code("tunings.py"),
    message:
        "Collecting how the rows of {wildcards.table} were tuned"
    script:
        "../scripts/tunings.py"
