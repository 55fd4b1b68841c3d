"""Offline evaluation of a two-stage recommender: what each stage keeps, what it loses, how sure the numbers are.

Knows arrays only: it imports no model, no reader and no index, so that any recommender can be judged with it.
"""
