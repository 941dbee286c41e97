"""From a cured model to a file that runs elsewhere, and the proof that it is the same function."""
