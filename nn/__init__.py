"""Bricks of both stages: embeddings, gates, cross layers, numbers, multi-layer perceptrons.

`inputs` puts them together to the input of a ranker, `split` computes the query side once, `sequence` holds the history
encoders.
"""
