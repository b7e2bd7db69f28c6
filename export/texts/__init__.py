"""What models are measured on: the package's own text, a file, or a data set of the hub."""
