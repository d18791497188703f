"""What is done with a compiled set: replayed, reported on, profiled with a model, exported for other trainers."""
