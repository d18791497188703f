"""One reader per kind of task row: from its columns to an `Instance`."""
