"""Run folders: opened and checked, written whole or not at all, found by name.

`folder` opens and writes a run, `manifest` says what it holds, `names` are the files that several rooms read, `locate`
finds the run that a user means. It reads no model and no data set.
"""
