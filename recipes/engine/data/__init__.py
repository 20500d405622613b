"""Pictures that only the tables of the paper need."""
