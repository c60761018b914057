"""The report: one offline HTML page of a run, drawn from its records."""
