"""The last stage: from scored candidates to the list that is shown."""
