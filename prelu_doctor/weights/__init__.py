"""Weights without their architecture: one pass over each tensor tells what values and names alone can tell."""
