"""The rule for each setting, what identifies a configuration, and the command line."""
