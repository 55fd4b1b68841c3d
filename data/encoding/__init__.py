"""Raw columns -> model inputs, fitted on training rows only: vocabularies, numbers, counts, attributes.

`encode` is the whole of it for a data set; `carry` and `overlay` take over what an earlier data set learned.
"""
