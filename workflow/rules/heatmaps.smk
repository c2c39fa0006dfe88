"""Heatmaps and sampling points. Takes: the weights of a run and its inputs, slide folders. Gives: tile_scores.parquet
and sampling_points.parquet of the test part's slides, and figures of them over four slides for the models that a table
lists under `heatmaps` and `sampling_points`."""


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
        gpu=lambda wildcards: MODELS[wildcards.model].get("gpu", 1),
        mem_mb=lambda wildcards: MODELS[wildcards.model].get("mem_mb", 4000),
        runtime=60,
    params:
        model=lambda wildcards: model_settings(wildcards.model),
        task=lambda wildcards: task_settings(wildcards.task),
        class_files=lambda wildcards: class_files(wildcards.model),
        code=lambda wildcards: code("tile_scores.py", *class_files(wildcards.model).values()),
    message:
        "Scoring the tiles of {wildcards.cohort}'s test slides with {wildcards.model} for {wildcards.task}, "
        "{wildcards.protocol} split {wildcards.split}, seed {wildcards.seed}"
    script:
        "../scripts/tile_scores.py"


rule figure_heatmaps:
    input:
        unpack(lambda wildcards: run_over_slides(wildcards, "heatmaps")),
    output:
        svg=report(
            "results/figures/{table}/heatmaps_{model}.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "heatmaps", "model": "{model}"},
        ),
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
        classes=classes_of_row,
        code=code("heatmap.py"),
    message:
        "Drawing heatmaps of {wildcards.model} in {wildcards.table}"
    script:
        "../scripts/heatmap.py"


rule sampling_points:
    input:
        unpack(inputs_of_run),
        population="results/{cohort}/populations/{task}.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/weights.safetensors",
    output:
        points="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/sampling_points.parquet",
    log:
        "logs/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_sampling_points.log",
    benchmark:
        "benchmarks/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_sampling_points.tsv"
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
        code=lambda wildcards: code("sampling_points.py", *class_files(wildcards.model).values()),
    message:
        "Finding where {wildcards.model} reads {wildcards.cohort}'s test slides for {wildcards.task}, "
        "{wildcards.protocol} split {wildcards.split}, seed {wildcards.seed}"
    script:
        "../scripts/sampling_points.py"


rule figure_sampling_points:
    input:
        unpack(lambda wildcards: run_over_slides(wildcards, "sampling_points")),
    output:
        svg=report(
            "results/figures/{table}/sampling_points_{model}.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "sampling points", "model": "{model}"},
        ),
        png="results/figures/{table}/sampling_points_{model}.png",
    log:
        "logs/figures/{table}/sampling_points_{model}.log",
    benchmark:
        "benchmarks/figures/{table}/sampling_points_{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        title=lambda wildcards: title_of_row(wildcards.table, wildcards.model),
        classes=classes_of_row,
        code=code("figure_sampling_points.py"),
    message:
        "Drawing the points that {wildcards.model} reads in {wildcards.table}"
    script:
        "../scripts/figure_sampling_points.py"
