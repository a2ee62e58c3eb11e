"""The HTTP door: routes by area, one way in for all of them."""
