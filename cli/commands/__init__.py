"""One verb of the command line a file; `cli.main` lists them."""
