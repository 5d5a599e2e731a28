"""Training: one loop over micro-batches, with exact resume."""
