"""SFT and SRL training. Knows nothing of software engineering: a `Domain` supplies renderer, parser and scorer."""
