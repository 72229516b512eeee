"""The built-in hand: its body, its surface, and the script that computes the surface's arrays."""
