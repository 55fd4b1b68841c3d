"""The configuration of a run: `run.RunConfig` is the whole, `file` reads TOML, `errors` says what is wrong with it.

`inferred` and `commented` make one from tables, `packaged` finds the ready ones in this folder by name; the first line
of each is the command that runs it.
"""
