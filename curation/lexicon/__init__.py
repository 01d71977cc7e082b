"""Builds the word lists of `curation/deid/data/*.txt.gz` from published dictionaries; see `__main__`."""
