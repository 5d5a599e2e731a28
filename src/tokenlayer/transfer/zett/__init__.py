"""Zero-shot tokenizer transfer: a network that writes the rows of any vocabulary."""
