"""Containerised repositories as Gymnasium environments, and the grading of patches."""
