"""A data schema from the tables alone: which columns are ids, times, labels and features, and why."""

from .schema import InferredSchema, infer_schema

__all__ = ["InferredSchema", "infer_schema"]
