"""Vectors of texts: `hashed` makes them without a model, `sentences` by a model of sentence-transformers."""
