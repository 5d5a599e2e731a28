"""Tokenizer files and Hugging Face checkpoints: read, score, change rows, save."""
