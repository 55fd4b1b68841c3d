"""The second stage: one logit per task for each candidate, and one order of the candidates.

`models` holds the rankers (one a file, found through `ranker.ranker_kinds`), `balance` how the tasks' losses become one
step, `train` the training, `blend` the score.
"""
