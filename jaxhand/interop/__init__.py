"""Other people's weights: read from their files without their libraries, and named as ours."""
