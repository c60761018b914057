"""What launcher and runtime share: schema, run-folder names, records, figures. No torch here."""
