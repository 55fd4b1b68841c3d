"""Metrics: `lists` of ranked lists, `rows` of predicted probabilities, `calibration`, `coverage` of a catalogue.

Arrays in, values per user or row out; the intervals are made in `evaluation.uncertainty`.
"""
