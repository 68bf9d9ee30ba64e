"""Alerts come in: from Alertmanager and Grafana by asking them, or by webhook. No payload is trusted.

pull (a thread) ──┐
                  ├─▶ inbox ─▶ acceptance (on the thread that trains) ─▶ policies
webhook ──────────┘
pull ─▶ silences ─▶ a veto, also for what is judged in process
"""
