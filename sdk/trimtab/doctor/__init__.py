"""Walks the chain from the package to the dashboards, and says of each link whether it holds."""
