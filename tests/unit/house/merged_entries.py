"""Entries of the configuration as the workflow merges them, for tests that read its files themselves."""

import copy


def merged(base, change):
    """A nested dictionary with the values of another put over it."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        deeper = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if deeper else copy.deepcopy(value)
    return result
