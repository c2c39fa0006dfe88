"""Raw files. Takes: addresses and checksums from the configuration, or the simulator.
Gives: resources/{cohort}/manifest.tsv (what there is), receipts/{batch}.tsv (what was fetched and verified)."""


rule simulate:
    output:
        directory=directory("resources/{cohort}/simulated"),
    log:
        "logs/{cohort}/simulate.log",
    benchmark:
        "benchmarks/{cohort}/simulate.tsv"
    wildcard_constraints:
        cohort=cohorts_from("simulated"),
    conda:
        "../../envs/slides.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=lookup("cohorts/{cohort}/simulated", within=config),
        code=code("simulate.py"),
    message:
        "Simulating the raw files of {wildcards.cohort}"
    script:
        "../scripts/simulate.py"


checkpoint manifest:
    input:
        simulated=lambda wildcards: simulated_folder(wildcards.cohort),
        pinned=lambda wildcards: config["cohorts"][wildcards.cohort].get("manifest", []),
        again=lambda wildcards: word_to_look_again(wildcards.cohort),
    output:
        manifest="resources/{cohort}/manifest.tsv",
        availability="resources/{cohort}/availability.json",
    log:
        "logs/{cohort}/manifest.log",
    benchmark:
        "benchmarks/{cohort}/manifest.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        settings=lambda wildcards: without(cohort_settings(wildcards.cohort), "genomics", "cdkn2a_deletion"),
        mirror=config.get("mirror"),
        code=code("manifest.py"),
    message:
        "Listing the files of {wildcards.cohort}"
    script:
        "../scripts/manifest.py"


rule fetch:
    input:
        manifest="resources/{cohort}/manifest.tsv",
        availability="resources/{cohort}/availability.json",
        simulated=lambda wildcards: simulated_folder(wildcards.cohort),
    output:
        receipt="resources/{cohort}/receipts/{batch}.tsv",
    log:
        "logs/{cohort}/fetch/{batch}.log",
    benchmark:
        "benchmarks/{cohort}/fetch/{batch}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=720,
    params:
        batch="{batch}",
        mirror=config.get("mirror"),
        directory="resources/{cohort}/raw",
        code=code("fetch.py"),
    message:
        "Fetching and verifying {wildcards.batch} of {wildcards.cohort}"
    script:
        "../scripts/fetch.py"
