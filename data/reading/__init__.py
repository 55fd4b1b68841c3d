"""Files and data frames -> `Tables`, every value as text first, every row with its file and line.

`readers` reads, `columns` and `keys` type the values, `sources` knows the layouts of public data sets.
"""
