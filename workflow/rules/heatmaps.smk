"""Heatmaps. Takes: the weights of a run and its inputs, slide folders. Gives: tile_scores.parquet of the test part's
slides, and figures of it over four of them for the models that a table lists under `heatmaps`."""


rule tile_scores:
    input:
        unpack(inputs_of_run),
        population="results/{cohort}/populations/{task}.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/weights.safetensors",
        predictions="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/predictions.parquet",
    output:
        scores="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/tile_scores.parquet",
    log:
        "logs/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_tile_scores.log",
    benchmark:
        "benchmarks/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_tile_scores.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: MODELS[wildcards.model].get("mem_mb", 4000),
        runtime=60,
    params:
        model=lambda wildcards: MODELS[wildcards.model],
        task=lookup("tasks/{task}", within=config),
        class_files=lambda wildcards: class_files(wildcards.model),
        code=lambda wildcards: code("tile_scores.py", *class_files(wildcards.model).values()),
    message:
        "Scoring the tiles of {wildcards.cohort}'s test slides with {wildcards.model} for {wildcards.task}, "
        "{wildcards.protocol} split {wildcards.split}, seed {wildcards.seed}"
    script:
        "../scripts/tile_scores.py"


rule figure_heatmaps:
    input:
        unpack(run_of_heatmaps),
    output:
        svg="results/figures/{table}/heatmaps_{model}.svg",
        png="results/figures/{table}/heatmaps_{model}.png",
    log:
        "logs/figures/{table}/heatmaps_{model}.log",
    benchmark:
        "benchmarks/figures/{table}/heatmaps_{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        title=lambda wildcards: title_of_row(wildcards.table, wildcards.model),
        classes=lambda wildcards: list(
            config["tasks"][row_of(wildcards.table, wildcards.model)["task"]].get("classes", {})
        ),
        code=code("heatmap.py"),
    message:
        "Drawing heatmaps of {wildcards.model} in {wildcards.table}"
    script:
        "../scripts/heatmap.py"
