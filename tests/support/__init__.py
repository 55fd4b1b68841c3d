"""What tests of several rooms share: worlds to train on, and the types of the fixtures that hand them out.

`toy`    a batch with every kind of column, no data set behind it
`shop`   a hand-made log and its schema
`tiny`   the embedded world, very small, and a run trained on it
`days`   the tiny world in two days
`plain_build` what a data set must hold, worked out row by row
`public` the public data sets
"""
