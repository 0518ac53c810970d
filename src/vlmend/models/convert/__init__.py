"""Checkpoints of models that transformers does not read, made into folders that it does."""
