"""The embedded world: a seeded shop whose true click and conversion probabilities are known (`simulate`)."""
