"""From what the scan counted to findings under stable codes, totals and a verdict. Runs no forward pass."""
