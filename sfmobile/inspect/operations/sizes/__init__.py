"""How sizes go from value to value in a program."""
