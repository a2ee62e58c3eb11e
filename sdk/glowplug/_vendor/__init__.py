"""Third-party code under private names, so that the user's own copies stay untouched."""
