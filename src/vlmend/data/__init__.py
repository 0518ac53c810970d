"""Records of examples and edit cases, and the file formats they are read from."""
