"""histofuse: multimodal survival models in computational pathology, from raw downloads to a paper's table.

The library knows nothing of Snakemake. It lies beside the scripts that call it, so that a rule's script can import
it wherever the workflow runs, without an install step.
"""
