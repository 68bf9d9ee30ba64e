"""What changes a run: the only room that writes to the user's objects."""
