"""Pages that need no network and no scripts: text made visible, the shared style, and drawings."""
