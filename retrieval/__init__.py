"""The first stage: a few hundred candidates of all items for each request.

`retriever.Retriever` is the stage as a whole; `towers` are the trained models, `index` searches their vectors,
`baselines` propose and score beside them, `merge` makes several lists one, `filters` says which items are allowed.
"""
