"""Figures. Takes: tables, predictions and histories of their runs, distances of embeddings. Gives: results/figures."""


rule figure_intervals:
    input:
        table="results/tables/{table}.csv",
    output:
        svg=report(
            "results/figures/{table}/intervals.svg",
            caption="../report/figure_table.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "intervals", "model": "all"},
        ),
        png="results/figures/{table}/intervals.png",
    log:
        "logs/figures/{table}/intervals.log",
    benchmark:
        "benchmarks/figures/{table}/intervals.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        entry=lookup("tables/{table}", within=config),
        simulated=lambda wildcards: simulated_table(wildcards.table),
        code=code("figure_table.py"),
    message:
        "Drawing the table {wildcards.table}"
    script:
        "../scripts/figure_table.py"


rule figure_kaplan_meier:
    input:
        predictions=lambda wildcards: predictions_of_row(wildcards.table, wildcards.model),
    output:
        svg=report(
            "results/figures/{table}/kaplan_meier_{model}.svg",
            caption="../report/figure_kaplan_meier.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "kaplan meier", "model": "{model}"},
        ),
        png="results/figures/{table}/kaplan_meier_{model}.png",
    log:
        "logs/figures/{table}/kaplan_meier_{model}.log",
    benchmark:
        "benchmarks/figures/{table}/kaplan_meier_{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=lambda wildcards: title_of_row(wildcards.table, wildcards.model),
        code=code("figure_kaplan_meier.py"),
    message:
        "Drawing survival by risk group of {wildcards.model} in {wildcards.table}"
    script:
        "../scripts/figure_kaplan_meier.py"


rule figure_hazards:
    input:
        predictions=lambda wildcards: predictions_of_row(wildcards.table, wildcards.model),
    output:
        svg=report(
            "results/figures/{table}/hazards_{model}.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "hazards", "model": "{model}"},
        ),
        png="results/figures/{table}/hazards_{model}.png",
    log:
        "logs/figures/{table}/hazards_{model}.log",
    benchmark:
        "benchmarks/figures/{table}/hazards_{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=lambda wildcards: title_of_row(wildcards.table, wildcards.model),
        code=code("figure_hazards.py"),
    message:
        "Drawing the predicted risks of {wildcards.model} in {wildcards.table}"
    script:
        "../scripts/figure_hazards.py"


rule figure_modulation:
    input:
        histories=lambda wildcards: runs_of_row(wildcards.table, wildcards.model, "history"),
        predictions=lambda wildcards: runs_of_row(wildcards.table, wildcards.model, "predictions"),
    output:
        svg=report(
            "results/figures/{table}/modulation_{model}.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "modulation", "model": "{model}"},
        ),
        png="results/figures/{table}/modulation_{model}.png",
    log:
        "logs/figures/{table}/modulation_{model}.log",
    benchmark:
        "benchmarks/figures/{table}/modulation_{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        title=lambda wildcards: title_of_row(wildcards.table, wildcards.model),
        kind=lambda wildcards: config["tasks"][row_of(wildcards.table, wildcards.model)["task"]]["kind"],
        code=code("figure_modulation.py"),
    message:
        "Drawing how the branches of {wildcards.model} in {wildcards.table} were balanced"
    script:
        "../scripts/figure_modulation.py"


rule figure_roc:
    input:
        predictions=lambda wildcards: list(predictions_of_roc(wildcards.table)),
    output:
        svg=report(
            "results/figures/{table}/roc.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "roc", "model": "all"},
        ),
        png="results/figures/{table}/roc.png",
    log:
        "logs/figures/{table}/roc.log",
    benchmark:
        "benchmarks/figures/{table}/roc.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=lambda wildcards: title_of_table(wildcards.table),
        labels=lambda wildcards: list(predictions_of_roc(wildcards.table).values()),
        classes=lambda wildcards: classes_of_roc(wildcards.table),
        code=code("figure_roc.py"),
    message:
        "Drawing the ROC curves of {wildcards.table}"
    script:
        "../scripts/figure_roc.py"


rule figure_sensitivity:
    input:
        table="results/tables/{table}.csv",
    output:
        svg=report(
            "results/figures/{table}/sensitivity.svg",
            caption="../report/figure_table.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "sensitivity", "model": "all"},
        ),
        png="results/figures/{table}/sensitivity.png",
    log:
        "logs/figures/{table}/sensitivity.log",
    benchmark:
        "benchmarks/figures/{table}/sensitivity.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        entry=lookup("tables/{table}", within=config),
        simulated=lambda wildcards: simulated_table(wildcards.table),
        code=code("figure_sensitivity.py"),
    message:
        "Drawing the metrics of {wildcards.table} over a parameter"
    script:
        "../scripts/figure_sensitivity.py"


rule figure_interpolation:
    input:
        distances="results/embeddings/{embedding}/interpolation.parquet",
    output:
        svg=report(
            "results/figures/embeddings/{embedding}/interpolation.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{embedding}",
            labels={"figure": "interpolation"},
        ),
        png="results/figures/embeddings/{embedding}/interpolation.png",
    log:
        "logs/figures/embeddings/{embedding}/interpolation.log",
    benchmark:
        "benchmarks/figures/embeddings/{embedding}/interpolation.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=lambda wildcards: title_of_embedding(wildcards.embedding),
        code=code("figure_interpolation.py"),
    message:
        "Drawing what smoothing does to the space of {wildcards.embedding}"
    script:
        "../scripts/figure_interpolation.py"


rule figures:
    input:
        lambda wildcards: figures_shown(),
        lambda wildcards: heatmaps_shown(),
