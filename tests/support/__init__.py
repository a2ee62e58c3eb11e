"""What tests share: builders, waiting, the real broker."""
