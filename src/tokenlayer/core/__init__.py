"""Shared types: no models, no input or output."""
