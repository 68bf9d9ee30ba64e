"""What changes a run: the only room that writes to the user's objects. What to change is decided elsewhere.

Around a step: `groups` puts values into parameter groups and back; `scales`, `decay`, `clipping`, `skipping` and
`dropout` are the things to change; `updates` is one optimizer, `steering` all of them, `step_controls` the `Controls`
of one. Between steps: `snapshots` and what it is made of, kept on a `shelf`, `restoring`, `cycle` for the right moment,
and `halting`.
"""
