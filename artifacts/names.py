"""Logical names of files in a run that more than one room reads."""

from __future__ import annotations

CONFIG = "config.toml"
INDEX = "retrieval/index"
INDEX_REPORT = "retrieval/index-report.json"
WARM_START = "warm_start.json"
FINAL = "final.json"
SCHEMA_NOTES = "schema_notes.json"
LOG = "log.json"
TUNING = "tuning.json"
EVALUATION = "metrics/evaluation.json"
USER_VALUES = "metrics/users.safetensors"
RETRIEVAL_HISTORY = "retrieval/history.jsonl"
RANKING_HISTORY = "ranking/history.jsonl"
