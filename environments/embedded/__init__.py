"""The embedded engine: containers of Linux namespaces, for machines with neither Docker nor Podman."""
