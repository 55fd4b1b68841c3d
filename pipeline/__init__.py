"""A whole run: `train.train` and `evaluate.evaluate` in memory, `publish` with the disk around them.

`start`, `warm_start`, `continuation` and `transfer` say where the first weights come from; `trace`, `leaks` and
`off_policy` belong to the evaluation.
"""
