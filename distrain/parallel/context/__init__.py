"""Context parallel: the columns of the rows are cut over ranks; only attention looks beyond."""
