"""Regions. Takes: receipts of slide files, a table of regions if there is one; or features made elsewhere.
Gives: regions/{regions}/{batch}/ (per slide: its regions, a picture), packed regions.u8 with index.parquet and a
contact sheet; and slide folders as encode_slides makes them, of the regions' fixed crops or of dropped-in features."""


rule cut_regions:
    input:
        receipt="resources/{cohort}/receipts/{batch}.tsv",
        table=lambda wildcards: config["slide_regions"][wildcards.regions].get("from") or [],
        target=lambda wildcards: stain_target(config["slide_regions"][wildcards.regions]),
    output:
        directory=directory("results/{cohort}/regions/{regions}/{batch}"),
    log:
        "logs/{cohort}/regions/{regions}/{batch}.log",
    benchmark:
        "benchmarks/{cohort}/regions/{regions}/{batch}.tsv"
    wildcard_constraints:
        batch=r"slide-\d+",
        regions=one_of(config.get("slide_regions", {})),
    conda:
        "../../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        settings=lambda wildcards: of_batch(
            without(regions_settings(wildcards.regions), "crop_px", "stride_px"), wildcards.cohort, wildcards.batch
        ),
        code=code("cut_regions.py"),
    message:
        "Cutting the regions of {wildcards.batch} of {wildcards.cohort} as {wildcards.regions}"
    script:
        "../scripts/cut_regions.py"


rule pack_regions:
    input:
        directories=lambda wildcards: region_folders(wildcards.cohort, wildcards.regions),
    output:
        regions="results/{cohort}/regions/{regions}/regions.u8",
        index="results/{cohort}/regions/{regions}/index.parquet",
        slides="results/{cohort}/regions/{regions}/slides.parquet",
        sheet="results/{cohort}/regions/{regions}/contact_sheet.png",
    log:
        "logs/{cohort}/regions/{regions}/pack.log",
    benchmark:
        "benchmarks/{cohort}/regions/{regions}/pack.tsv"
    conda:
        "../../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        side_px=lookup("slide_regions/{regions}/side_px", within=config),
        # a function of a job's resources is no trigger: the limit decides whether there is a map, not what it holds
        max_excluded=lambda wildcards, resources: config["slide_regions"][wildcards.regions]["max_excluded"],
        code=code("pack_regions.py"),
    message:
        "Packing the regions of {wildcards.cohort} ({wildcards.regions}) into one map"
    script:
        "../scripts/pack_regions.py"


rule encode_regions:
    input:
        directory=lambda wildcards: region_folder(wildcards.cohort, wildcards.features, wildcards.batch),
        weights=lambda wildcards: weights_file(wildcards.features),
    output:
        directory=directory("results/{cohort}/slides/{features}/{batch}"),
    log:
        "logs/{cohort}/slides/{features}/{batch}.log",
    benchmark:
        "benchmarks/{cohort}/slides/{features}/{batch}.tsv"
    wildcard_constraints:
        batch=r"slide-\d+",
        features=features_made_by("regions"),
    conda:
        "../../envs/slides.yaml"
    threads: lambda wildcards: config["slide_features"][wildcards.features]["threads"]
    resources:
        gpu=lambda wildcards: config["slide_features"][wildcards.features]["gpu"],
        mem_mb=lambda wildcards: memory_of_encoding(wildcards.features),
        runtime=60,
    params:
        settings=lambda wildcards: features_settings(wildcards.features),
        regions=lambda wildcards: regions_of(wildcards.features),
        code=code("encode_regions.py"),
    message:
        "Encoding the crops of {wildcards.batch} of {wildcards.cohort} as {wildcards.features}"
    script:
        "../scripts/encode_regions.py"


rule drop_in_features:
    input:
        cases="results/{cohort}/cases.parquet",
        folder=lambda wildcards: config["slide_features"][wildcards.features]["from"],
        files=lambda wildcards: dropped_in_files(wildcards.features),
    output:
        directory=directory("results/{cohort}/slides/{features}/given"),
    log:
        "logs/{cohort}/slides/{features}/given.log",
    benchmark:
        "benchmarks/{cohort}/slides/{features}/given.tsv"
    wildcard_constraints:
        features=features_made_by("from"),
    conda:
        "../../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("drop_in_features.py"),
    message:
        "Looking for the features of {wildcards.cohort}'s slides ({wildcards.features})"
    script:
        "../scripts/drop_in_features.py"
