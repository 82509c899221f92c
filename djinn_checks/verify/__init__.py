"""A folder that somebody else made, held against itself: what can be derived again is, and the rest is said to be
believed.
"""
