"""To see: the built-in models and what they are for, and the page of results."""
