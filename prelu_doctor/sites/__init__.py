"""One traced forward -> the dataflow graph -> every site, its producers and its consumers."""
