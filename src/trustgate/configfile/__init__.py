"""A gateway's configuration as a file: export to YAML, and from a file to the state that it asks for."""
