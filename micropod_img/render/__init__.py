"""Results and errors as text, tables and JSON: pure functions and event sinks; nothing here prints or exits."""
