"""Services of a run: the user's, installed into containers, and the two that always exist."""
