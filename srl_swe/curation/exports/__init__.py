"""Compiled sets as files of other trainers: TRL, verl, NVIDIA NeMo Gym, and plain chat files for SFT.

One module a target says what a row is and how its file is used; `writing` writes any of them. The rewards that belong
to the files are in `srl_swe.rewards`.
"""
