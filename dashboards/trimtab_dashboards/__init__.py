"""Grafana dashboards, as code. Empty until the dashboards land."""
