"""The only floor that prints, parses flags or draws; it holds no algorithm."""
