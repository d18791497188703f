"""The `srl-swe` command: one module per sub-command."""
