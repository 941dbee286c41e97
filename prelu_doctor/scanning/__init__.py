"""Runs the sample data through a model and counts, per site and unit, on which samples it fires."""
