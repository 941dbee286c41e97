"""Mutated files of every kind: each ends in one clear refusal or in a right answer."""
