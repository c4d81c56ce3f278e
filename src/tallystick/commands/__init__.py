"""The commands of ``tally``, one file per family."""
