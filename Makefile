# The commands of the house; `make` alone lists them.

# torch lies beside requirements.lock, because its build depends on the machine. envs/ pin the same version.
TORCH := 2.13.0
BIN := .venv/bin

.PHONY: help setup demo test lint bench clean lock

help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '%-12s %s\n' "$$name" "$$text"; done

setup:  ## make .venv (Python 3.11 or 3.12) from requirements.lock; PYTHON=... names an interpreter
	@TORCH=$(TORCH) PYTHON='$(PYTHON)' sh tools/setup.sh

demo: setup  ## from a simulated cohort's raw files to tables, figures and the report
	$(BIN)/snakemake --cores all

lint: setup  ## formats and rules of the code and the workflow
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

test: lint  ## lint, unit tests, then the workflow on a tiny grid
	$(BIN)/python -m pytest

bench: setup  ## benchmarks, each against a reference measured in the same run
	$(BIN)/python -m pytest tests/benchmarks -q -s -p no:cacheprovider

# Weights and cells that somebody put there by hand lie beside simulated ones. By Snakemake's records (metadata) these are
# made anew once their settings have changed.
KEPT := atlases pretrained scgpt

clean:  ## remove what runs made, downloads included; .venv, weights and cells stay
	rm -rf logs benchmarks
	@for kept in $(KEPT); do if [ -e "resources/$$kept" ]; then echo "kept: resources/$$kept"; fi; done
	@if [ -d resources ]; then find resources -mindepth 1 -maxdepth 1 $(KEPT:%=! -name %) -exec rm -rf {} +; fi
	@if [ -d .snakemake ]; then find .snakemake -mindepth 1 -maxdepth 1 ! -name metadata -exec rm -rf {} +; fi
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +

lock:  ## resolve requirements.in into requirements.lock; needs uv
	@command -v uv >/dev/null || { echo 'make lock: uv is not on the PATH; install it, then try again' >&2; exit 1; }
	uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes --no-emit-package torch --no-emit-index-url --no-emit-find-links -o requirements.lock
