"""Training. Takes: population, splits and the inputs that a model entry lists. Gives per run: predictions.parquet
(every case, all that a metric needs), slides.parquet (the same per slide, empty where the model's rows are cases),
history.parquet and weights.safetensors; for runs that read them vectors.parquet.
"""


rule train:
    input:
        unpack(inputs_of_run),
        population="results/{cohort}/populations/{task}.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
    output:
        predictions="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/predictions.parquet",
        slides="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/slides.parquet",
        history="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/history.parquet",
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/weights.safetensors",
    log:
        "logs/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}.log",
    benchmark:
        "benchmarks/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: MODELS[wildcards.model].get("gpu", 1),
        mem_mb=lambda wildcards: MODELS[wildcards.model].get("mem_mb", 4000),
        runtime=lambda wildcards: MODELS[wildcards.model].get("runtime", 240),
    params:
        model=lambda wildcards: model_settings(wildcards.model, wildcards.task),
        task=lambda wildcards: task_settings(wildcards.task),
        class_files=lambda wildcards: class_files(wildcards.model),
        checkpoint="resources/checkpoints/{cohort}/{task}/{protocol}/{model}/split{split}/seed{seed}.pt",
        code=lambda wildcards: code("train.py", *class_files(wildcards.model).values()),
    message:
        "Training {wildcards.model} for {wildcards.task} on {wildcards.cohort}, {wildcards.protocol} split "
        "{wildcards.split}, seed {wildcards.seed}"
    script:
        "../scripts/train.py"


rule vectors:
    input:
        unpack(inputs_of_run),
        population="results/{cohort}/populations/{task}.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/weights.safetensors",
    output:
        vectors="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/vectors.parquet",
    log:
        "logs/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_vectors.log",
    benchmark:
        "benchmarks/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_vectors.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: MODELS[wildcards.model].get("gpu", 1),
        mem_mb=lambda wildcards: MODELS[wildcards.model].get("mem_mb", 4000),
        runtime=60,
    params:
        model=lambda wildcards: model_settings(wildcards.model),
        task=lambda wildcards: task_settings(wildcards.task),
        class_files=lambda wildcards: class_files(wildcards.model),
        code=lambda wildcards: code("vectors.py", *class_files(wildcards.model).values()),
    message:
        "Vectors of {wildcards.model} for {wildcards.task} on {wildcards.cohort}, {wildcards.protocol} split "
        "{wildcards.split}, seed {wildcards.seed}"
    script:
        "../scripts/vectors.py"
