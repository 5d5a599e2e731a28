"""Make a tokenizer, look into one."""
