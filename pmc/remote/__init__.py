"""What is copied to the nodes and runs there: Python 3.9 or newer, with its own library only."""
