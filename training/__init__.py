"""What both stages train with: `loop` (epochs, early stopping, exact resume), `optim`, `checkpoint`, `runtime`, `log`.

It knows modules, losses and optimisers, and neither a data set nor a model of this library.
"""
