"""The kinds of fault, by what they hit."""
