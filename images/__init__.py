"""Ten real images, from a registry into a container, compared with what others unpack (`just images`)."""
