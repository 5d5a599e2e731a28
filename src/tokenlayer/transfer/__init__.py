"""Give a trained model another tokenizer."""
