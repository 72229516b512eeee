"""The synthetic data set: random scenes of hands, a ray tracer, a renderer, and the source of records."""
