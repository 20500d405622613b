"""From a command line to a finished table or figure."""
