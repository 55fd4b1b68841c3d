"""A run that answers and learns what happens meanwhile: requests, the log of events, live state over the run."""
