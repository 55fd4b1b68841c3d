"""The data report of `recsys data check`: columns profiled, drift and leaks suspected, findings in sentences."""
