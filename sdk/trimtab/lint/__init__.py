"""Judges finished logs: ours by the levels that they recorded, others by the same rules on what they hold.

points     what a log of another tool holds, under our names
tables     reads CSV files and `trainer_state.json` of Transformers
events     reads event files of TensorBoard
findings   which rules fired, and how high their levels stood
ours       judges a log of ours
others     judges one of another tool, by the rules that it supports
judging    judges one log of any kind
"""
