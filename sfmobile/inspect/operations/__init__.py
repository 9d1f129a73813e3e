"""Operations of a program, what they cost and which block they belong to."""
