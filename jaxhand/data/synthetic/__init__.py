"""The synthetic data set: random scenes of hands, a ray tracer, a renderer, and a source of records."""
