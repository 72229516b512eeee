"""The built-in hand: joints and body, skin surface, and the script that computes the arrays of the surface."""
