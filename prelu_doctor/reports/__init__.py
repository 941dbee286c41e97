"""Pure functions from a record to text, one file a format."""
