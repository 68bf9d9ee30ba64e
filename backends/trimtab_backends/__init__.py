"""The sinks that ship with Trimtab: console, JSON Lines, Prometheus. Each knows only the nouns."""
