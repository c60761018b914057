"""From YAML to a checked recipe: files, parents, overrides, messages with line and column."""
