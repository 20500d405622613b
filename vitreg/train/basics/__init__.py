"""What every part of the trainer uses: processes, progress, text tables."""
