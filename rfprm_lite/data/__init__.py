"""Files of rows, and data selection. Knows no PRM: it is handed a scoring function."""
