"""Two-stage recommendation: a two-tower retriever, a multi-task ranker, and the harness that measures both."""
