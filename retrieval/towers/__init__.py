"""The two-tower model: `two_tower` is the network, `windows` and `exposures` its batches, `train` its training.

The losses stand in `losses` and `full_softmax`, the negatives in `negatives`.
"""
