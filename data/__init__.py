"""From raw tables to batches: `schema` describes the columns, `build` encodes, `dataset` gives batches, `store` keeps.

`reading` brings files and frames in, `encoding` turns columns into codes and numbers, `infer` guesses a schema, `check`
reports on a log before a training, `world` simulates one.
"""
