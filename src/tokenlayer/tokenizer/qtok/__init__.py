"""Qtok: what the entries of vocabularies are, for which scripts and languages, and how tokenizers compare."""
