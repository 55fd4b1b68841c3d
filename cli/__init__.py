"""The command line: verbs that parse, call the library and print. `main` is the entry point of `recsys`.

`recsys --help` imports nothing heavy: a verb imports what it uses when it is called.
"""
