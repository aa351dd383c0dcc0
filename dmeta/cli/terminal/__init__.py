"""What is shown in a terminal while a run or a search goes on, and at its end."""
