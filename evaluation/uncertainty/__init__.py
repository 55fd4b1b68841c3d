"""How sure a number is: `bootstrap` intervals over users, `compare` of two runs, tests of `significance`."""
