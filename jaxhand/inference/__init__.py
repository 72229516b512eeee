"""From photographs to hands: detection, crops, networks and the way back to the photograph."""
