"""The command line: one file per command, each parses, builds one typed configuration and calls one function."""
