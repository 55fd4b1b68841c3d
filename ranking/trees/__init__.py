"""Boosted trees as second stage, alone or beside a network: a model per task and one for `select`, by LightGBM."""
