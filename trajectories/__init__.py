"""Published expert runs compiled to step examples of command-level actions."""
