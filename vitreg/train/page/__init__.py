"""The page `report.html` that a fine-tuning leaves behind."""
