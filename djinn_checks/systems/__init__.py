"""Systems that can be checked, each in a file of its own. Nothing heavy happens at import."""
