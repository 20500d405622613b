"""How well attention covers objects: table 4 and figure 3."""
