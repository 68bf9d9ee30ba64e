"""Draws runs from their logs. Needs matplotlib and numpy (extra `report`).

curves    from the records of a run to curves
panels    one panel: curves, scale, names at their ends, marks
drawing   the picture of one run, or of several laid over each other
"""
