"""Adversarial data for tokenizers (ADT): questions that lure a tokenizer into cutting across a word boundary."""
