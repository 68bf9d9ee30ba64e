"""Compares signals with thresholds and durations; says which rules fire. Acts on nothing."""
