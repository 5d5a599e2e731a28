"""Texts in and out: streamed documents and their counts."""
