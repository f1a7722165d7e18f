"""The plan of a call: which tokens are computed, once, and when. Pure: numpy alone."""
