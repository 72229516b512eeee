"""The built-in hand: its body, its surface, and the script that fits the surface's numbers."""
