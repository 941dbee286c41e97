"""A data spec -> batches."""
