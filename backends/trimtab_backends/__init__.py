"""The sinks that ship with Trimtab: console, JSON Lines, Prometheus, Grafana. Each knows only the nouns."""
