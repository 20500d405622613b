"""From stored runs to tables and figures, beside the numbers of the paper."""
