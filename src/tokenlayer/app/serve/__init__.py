"""A small page on this machine that shows how several tokenizers cut a text."""
