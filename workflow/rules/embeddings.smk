"""Embeddings. Takes: an atlas of single cells, an scGPT checkpoint, the cohorts' expression.
Gives: embeddings/{embedding}/panel.tsv, smoothings/{smoothing}/ (MLP-A and its controls), and per cohort
genomics/embeddings/{embedding}/raw.parquet and {smoothing}.parquet (one vector per case)."""


rule simulate_atlas:
    output:
        atlas="resources/atlases/{atlas}.h5ad",
    log:
        "logs/atlases/{atlas}.log",
    benchmark:
        "benchmarks/atlases/{atlas}.tsv"
    wildcard_constraints:
        # an atlas that is a file may lie at the same path: it is never written to
        atlas=one_of(name for name, entry in config.get("atlases", {}).items() if entry["source"] == "simulated"),
    conda:
        "../../envs/embeddings.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=lambda wildcards: config["atlases"][wildcards.atlas].get("simulated", {}),
        code=code("simulate_atlas.py"),
    message:
        "Simulating the cells of {wildcards.atlas}"
    script:
        "../scripts/simulate_atlas.py"


rule simulate_checkpoint:
    output:
        **{name: f"resources/scgpt/{{embedding}}/{file}" for name, file in CHECKPOINT_FILES.items()},
    log:
        "logs/embeddings/{embedding}/simulate_checkpoint.log",
    benchmark:
        "benchmarks/embeddings/{embedding}/simulate_checkpoint.tsv"
    wildcard_constraints:
        # a released checkpoint may lie at the same path: it is never written to
        embedding=one_of(
            name for name, entry in config.get("embeddings", {}).items() if entry["checkpoint"] == "simulated"
        ),
    conda:
        "../../envs/embeddings.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda wildcards: config["embeddings"][wildcards.embedding].get("simulated", {}),
        code=code("simulate_checkpoint.py"),
    message:
        "Writing a small untrained checkpoint for {wildcards.embedding}"
    script:
        "../scripts/simulate_checkpoint.py"


rule gene_panel:
    input:
        unpack(checkpoint_of),
        atlas=lambda wildcards: atlas_of(wildcards.embedding),
        classes=lambda wildcards: classes_of(wildcards.embedding),
        given=lambda wildcards: config["embeddings"][wildcards.embedding].get("panel", {}).get("file") or [],
    output:
        panel="results/embeddings/{embedding}/panel.tsv",
        atlas="results/embeddings/{embedding}/atlas.json",
    log:
        "logs/embeddings/{embedding}/panel.log",
    benchmark:
        "benchmarks/embeddings/{embedding}/panel.tsv"
    conda:
        "../../envs/embeddings.yaml"
    threads: 1
    resources:
        mem_mb=16000,
        runtime=60,
    params:
        panel=lambda wildcards: config["embeddings"][wildcards.embedding].get("panel", {}),
        atlas=lambda wildcards: atlas_settings(wildcards.embedding),
        code=code("gene_panel.py"),
    message:
        "Choosing the genes that {wildcards.embedding} is shown"
    script:
        "../scripts/gene_panel.py"


rule embed_bank:
    input:
        unpack(checkpoint_of),
        atlas=lambda wildcards: atlas_of(wildcards.embedding),
        classes=lambda wildcards: classes_of(wildcards.embedding),
        panel="results/embeddings/{embedding}/panel.tsv",
    output:
        bank="results/embeddings/{embedding}/bank/{bank}.npz",
    log:
        "logs/embeddings/{embedding}/bank/{bank}.log",
    benchmark:
        "benchmarks/embeddings/{embedding}/bank/{bank}.tsv"
    conda:
        "../../envs/embeddings.yaml"
    threads: lambda wildcards: threads_of(wildcards.embedding)
    resources:
        gpu=lambda wildcards: config["embeddings"][wildcards.embedding].get("gpu", 1),
        mem_mb=16000,
        runtime=720,
    params:
        settings=lambda wildcards: settings_of(wildcards.embedding, "ties", "precision", "seed"),
        size=lambda wildcards: size_of(wildcards.embedding, wildcards.bank),
        atlas=lambda wildcards: atlas_settings(wildcards.embedding),
        code=code("embed_bank.py"),
    message:
        "Embedding the bank of {wildcards.bank} cells with {wildcards.embedding}"
    script:
        "../scripts/embed_bank.py"


rule train_smoothing:
    input:
        bank=lambda wildcards: bank_of(wildcards.embedding, wildcards.smoothing),
        mixed="results/embeddings/{embedding}/bank/held_out_mixed.npz",
        single="results/embeddings/{embedding}/bank/held_out_single.npz",
    output:
        weights="results/embeddings/{embedding}/smoothings/{smoothing}/weights.safetensors",
        history="results/embeddings/{embedding}/smoothings/{smoothing}/history.parquet",
        scores="results/embeddings/{embedding}/smoothings/{smoothing}/scores.json",
    log:
        "logs/embeddings/{embedding}/smoothings/{smoothing}.log",
    benchmark:
        "benchmarks/embeddings/{embedding}/smoothings/{smoothing}.tsv"
    conda:
        "../../envs/embeddings.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_smoothing,
        runtime=60,
    params:
        settings=lookup("smoothings/{smoothing}", within=config),
        code=code("train_smoothing.py"),
    message:
        "Training the smoothing {wildcards.smoothing} of {wildcards.embedding}"
    script:
        "../scripts/train_smoothing.py"


rule smoothing_scores:
    input:
        scores=lambda wildcards: per_smoothing("scores.json", wildcards.embedding),
    output:
        table="results/embeddings/{embedding}/smoothings.csv",
    log:
        "logs/embeddings/{embedding}/smoothing_scores.log",
    benchmark:
        "benchmarks/embeddings/{embedding}/smoothing_scores.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        smoothings=lambda wildcards: smoothings_of(wildcards.embedding),
        code=code("smoothing_scores.py"),
    message:
        "Comparing the smoothings of {wildcards.embedding} on held-out donors"
    script:
        "../scripts/smoothing_scores.py"


rule interpolate:
    input:
        unpack(checkpoint_of),
        atlas=lambda wildcards: atlas_of(wildcards.embedding),
        classes=lambda wildcards: classes_of(wildcards.embedding),
        panel="results/embeddings/{embedding}/panel.tsv",
        weights=lambda wildcards: per_smoothing("weights.safetensors", wildcards.embedding),
    output:
        distances="results/embeddings/{embedding}/interpolation.parquet",
    log:
        "logs/embeddings/{embedding}/interpolation.log",
    benchmark:
        "benchmarks/embeddings/{embedding}/interpolation.tsv"
    conda:
        "../../envs/embeddings.yaml"
    threads: lambda wildcards: threads_of(wildcards.embedding)
    resources:
        gpu=lambda wildcards: config["embeddings"][wildcards.embedding].get("gpu", 1),
        mem_mb=8000,
        runtime=60,
    params:
        settings=lambda wildcards: settings_of(wildcards.embedding, "ties", "precision", "seed", "pairs"),
        atlas=lambda wildcards: atlas_settings(wildcards.embedding),
        smoothings=lambda wildcards: smoothings_of(wildcards.embedding),
        code=code("interpolate.py"),
    message:
        "Walking from one cell type to another in the spaces of {wildcards.embedding}"
    script:
        "../scripts/interpolate.py"


rule embed_cases:
    input:
        unpack(checkpoint_of),
        h5ad="results/{cohort}/genomics/expression.h5ad",
        panel="results/embeddings/{embedding}/panel.tsv",
    output:
        embedding="results/{cohort}/genomics/embeddings/{embedding}/raw.parquet",
    log:
        "logs/{cohort}/genomics/embeddings/{embedding}/raw.log",
    benchmark:
        "benchmarks/{cohort}/genomics/embeddings/{embedding}/raw.tsv"
    conda:
        "../../envs/embeddings.yaml"
    threads: lambda wildcards: threads_of(wildcards.embedding)
    resources:
        gpu=lambda wildcards: config["embeddings"][wildcards.embedding].get("gpu", 1),
        mem_mb=8000,
        runtime=240,
    params:
        settings=lambda wildcards: settings_of(
            wildcards.embedding, "values", "max_missing", "subsets", "ties", "precision", "seed"
        ),
        cache="resources/cache/scgpt",
        code=code("embed_cases.py"),
    message:
        "Embedding the cases of {wildcards.cohort} with {wildcards.embedding}"
    script:
        "../scripts/embed_cases.py"


rule smooth_cases:
    input:
        embedding="results/{cohort}/genomics/embeddings/{embedding}/raw.parquet",
        weights="results/embeddings/{embedding}/smoothings/{smoothing}/weights.safetensors",
    output:
        smoothed="results/{cohort}/genomics/embeddings/{embedding}/{smoothing}.parquet",
    log:
        "logs/{cohort}/genomics/embeddings/{embedding}/{smoothing}.log",
    benchmark:
        "benchmarks/{cohort}/genomics/embeddings/{embedding}/{smoothing}.tsv"
    conda:
        "../../envs/embeddings.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("smooth_cases.py"),
    message:
        "Smoothing the embedded cases of {wildcards.cohort} by {wildcards.smoothing}"
    script:
        "../scripts/smooth_cases.py"
