"""A finished suite as one file for an archive or an artifact evaluation committee, without names of hosts or users."""
