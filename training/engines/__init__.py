"""How several processes train one model.

`joining` makes a process one of several; `local` gives every process the whole model and sums their gradients.
"""
