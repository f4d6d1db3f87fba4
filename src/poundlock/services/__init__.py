"""Services a run may ask for: the user's, installed into containers, and the two that are always there."""
