"""The command line: parse, call the service, hand the result to `render`; only this package prints and exits."""
