"""Acting on instances, grading patches, and reporting the resolve rate."""
