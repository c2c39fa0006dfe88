#!/usr/bin/env bash
# scGPT declares requirements that cannot be met beside a current torch (torchtext) or are not needed for embedding;
# a conda environment has no other way to leave them out.
set -euo pipefail
pip install --no-deps scgpt==0.2.4
