"""The data report of `recsys data check`: columns profiled, drift and leaks
suspected, users and items that stand out, gaps in time, the split that suits, and findings in sentences.
"""
