"""What a run costs, and what its choices would cost instead: measured, in tables and plots."""
