"""What selecting clients costs with up to a million of them."""
