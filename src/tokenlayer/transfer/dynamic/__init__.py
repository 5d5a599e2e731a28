"""Token boundaries that the text decides: units merged in a batch, their rows made on the fly."""
