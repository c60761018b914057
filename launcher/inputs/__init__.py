"""What the files that a recipe names say against it: read before anything is started or queued."""
