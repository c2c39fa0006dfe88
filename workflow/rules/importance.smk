"""Importance of genes. Takes: the weights of a run and its inputs. Gives: gene_importance.parquet, what permuting each
input of the test part changes, and figures of it over all runs of the models that a table lists under
`gene_importance`."""


rule gene_importance:
    input:
        unpack(inputs_of_run),
        population="results/{cohort}/populations/{task}.parquet",
        splits="results/{cohort}/splits/{protocol}.parquet",
        weights="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/weights.safetensors",
    output:
        importance="results/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}/gene_importance.parquet",
    log:
        "logs/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_gene_importance.log",
    benchmark:
        "benchmarks/{cohort}/runs/{task}/{protocol}/{model}/split{split}/seed{seed}_gene_importance.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: MODELS[wildcards.model].get("gpu", 1),
        mem_mb=lambda wildcards: MODELS[wildcards.model].get("mem_mb", 4000),
        runtime=240,
    params:
        model=lambda wildcards: model_settings(wildcards.model),
        task=lambda wildcards: task_settings(wildcards.task),
        class_files=lambda wildcards: class_files(wildcards.model),
        code=lambda wildcards: code("gene_importance.py", *class_files(wildcards.model).values()),
    message:
        "Permuting the inputs of {wildcards.cohort}'s test cases for {wildcards.model}, {wildcards.task}, "
        "{wildcards.protocol} split {wildcards.split}, seed {wildcards.seed}"
    script:
        "../scripts/gene_importance.py"


rule figure_gene_importance:
    input:
        importance=lambda wildcards: runs_of_row(wildcards.table, wildcards.model, "gene_importance"),
    output:
        svg=report(
            "results/figures/{table}/gene_importance_{model}.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{table}",
            labels={"figure": "gene importance", "model": "{model}"},
        ),
        png="results/figures/{table}/gene_importance_{model}.png",
    log:
        "logs/figures/{table}/gene_importance_{model}.log",
    benchmark:
        "benchmarks/figures/{table}/gene_importance_{model}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=lambda wildcards: title_of_row(wildcards.table, wildcards.model),
        code=code("figure_gene_importance.py"),
    message:
        "Drawing what {wildcards.model} in {wildcards.table} makes of its inputs"
    script:
        "../scripts/figure_gene_importance.py"
