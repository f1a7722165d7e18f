"""Which tokens are computed, once, and when. Pure: numpy alone."""
