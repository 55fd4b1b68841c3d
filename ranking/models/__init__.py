"""The rankers, one a file: subclassing `Ranker` with `kind="..."` registers one; every file here is imported."""
