"""Slides. Takes: receipts of slide files. Gives: slides/{features}/{batch}/ (per slide: HDF5 of features, picture,
thumbnail), and packed for training tiles.f16 and coords.i32 with index.parquet; slides.parquet says which slides were
set aside, and why."""


rule encode_slides:
    input:
        receipt="resources/{cohort}/receipts/{batch}.tsv",
        weights=lambda wildcards: weights_file(wildcards.features),
        target=lambda wildcards: stain_target(config["slide_features"][wildcards.features]),
    output:
        directory=directory("results/{cohort}/slides/{features}/{batch}"),
    log:
        "logs/{cohort}/slides/{features}/{batch}.log",
    benchmark:
        "benchmarks/{cohort}/slides/{features}/{batch}.tsv"
    wildcard_constraints:
        batch=r"slide-\d+",
        features=features_made_by("slides"),
    conda:
        "../../envs/slides.yaml"
    threads: lambda wildcards: config["slide_features"][wildcards.features]["threads"]
    resources:
        gpu=lambda wildcards: config["slide_features"][wildcards.features]["gpu"],
        mem_mb=lambda wildcards: memory_of_encoding(wildcards.features),
        runtime=240,
    params:
        settings=lambda wildcards: of_batch(features_settings(wildcards.features), wildcards.cohort, wildcards.batch),
        code=code("encode_slides.py"),
    message:
        "Encoding the tiles of {wildcards.batch} of {wildcards.cohort} as {wildcards.features}"
    script:
        "../scripts/encode_slides.py"


rule pack_slides:
    input:
        directories=lambda wildcards: slide_folders(wildcards.cohort, wildcards.features),
    output:
        tiles="results/{cohort}/slides/{features}/tiles.f16",
        coords="results/{cohort}/slides/{features}/coords.i32",
        index="results/{cohort}/slides/{features}/index.parquet",
        slides="results/{cohort}/slides/{features}/slides.parquet",
        sheet="results/{cohort}/slides/{features}/contact_sheet.png",
    log:
        "logs/{cohort}/slides/{features}/pack.log",
    benchmark:
        "benchmarks/{cohort}/slides/{features}/pack.tsv"
    conda:
        "../../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        # a function of a job's resources is no trigger: the limit decides whether there is a map, not what it holds
        max_excluded=lambda wildcards, resources: config["slide_features"][wildcards.features]["max_excluded"],
        code=code("pack_slides.py"),
    message:
        "Packing the features of {wildcards.cohort} ({wildcards.features}) into one map"
    script:
        "../scripts/pack_slides.py"
