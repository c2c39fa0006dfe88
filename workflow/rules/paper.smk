"""Paper. Takes: metrics, published figures, results/figures. Gives: results/tables, results/report."""


rule table:
    input:
        metrics=lambda wildcards: metrics_of_table(wildcards.table),
        availability=lambda wildcards: availability_of(wildcards.table),
        published=lambda wildcards: published_figures(wildcards.table),
    output:
        csv=report(
            "results/tables/{table}.csv", caption="../report/table.rst", category="Tables", labels={"table": "{table}"}
        ),
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "benchmarks/tables/{table}.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        name="{table}",
        entry=lambda wildcards: entry_of(wildcards.table),
        labels=lambda wildcards: labels_of(wildcards.table),
        simulated=lambda wildcards: simulated_table(wildcards.table),
        absent=lambda wildcards: absent_rows(wildcards.table),
        members=lambda wildcards: {name: members(name) for row in rows_of(wildcards.table) for name in cohorts_of(row)},
        code=code("table.py"),
    message:
        "Making the table {wildcards.table}"
    script:
        "../scripts/table.py"


rule tables:
    input:
        lambda wildcards: metrics_shown(),
        expand("results/tables/{table}.csv", table=config["tables"]),


rule reachable:
    input:
        simulated="resources/{cohort}/simulated",
    output:
        reachable="results/{cohort}/reachable.json",
    log:
        "logs/{cohort}/reachable.log",
    benchmark:
        "benchmarks/{cohort}/reachable.tsv"
    wildcard_constraints:
        cohort=cohorts_from("simulated"),
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("reachable.py"),
    message:
        "Finding the best C-index that {wildcards.cohort} allows"
    script:
        "../scripts/reachable.py"


rule report:
    input:
        tables=expand("results/tables/{table}.csv", table=config["tables"]),
        figures=lambda wildcards: figures_shown(),
        excluded=lambda wildcards: report_files("excluded"),
        populations=lambda wildcards: report_files("populations"),
        slides=lambda wildcards: report_files("slides"),
        heatmaps=lambda wildcards: heatmaps_shown(),
        sheets=lambda wildcards: report_files("sheets"),
        reachable=lambda wildcards: report_files("reachable"),
        filters=lambda wildcards: report_files("filters"),
        smoothings=lambda wildcards: report_files("smoothings"),
        tunings=lambda wildcards: tunings_shown(),
    output:
        html="results/report/index.html",
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        title="histofuse: tables and figures of this run",
        tables=[
            {"title": entry["title"], "note": entry.get("note"), "simulated": simulated_table(table)}
            for table, entry in config["tables"].items()
        ],
        figures=lambda wildcards, input: described(input.figures, caption),
        excluded=lambda wildcards, input: described(input.excluded, heading),
        populations=lambda wildcards, input: described(input.populations, heading),
        slides=lambda wildcards, input: described(input.slides, heading),
        heatmaps=lambda wildcards, input: described(input.heatmaps, caption),
        sheets=lambda wildcards, input: described(input.sheets, heading),
        reachable=lambda wildcards, input: described(input.reachable, heading),
        filters=lambda wildcards, input: described(input.filters, heading),
        smoothings=lambda wildcards, input: described(
            input.smoothings, lambda path: title_of_embedding(Path(path).parts[2])
        ),
        tunings=lambda wildcards, input: described(
            input.tunings, lambda path: config["tables"][Path(path).stem]["title"]
        ),
        provenance=provenance(),
        code=code("report.py"),
    message:
        "Writing the report"
    script:
        "../scripts/report.py"
