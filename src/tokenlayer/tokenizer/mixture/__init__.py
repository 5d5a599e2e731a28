"""What a BPE tokenizer's merges say of the text that it was trained on."""
