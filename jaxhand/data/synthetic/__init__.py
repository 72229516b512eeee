"""The synthetic data set: scenes of hands, ray tracer, renderer and the source of records."""
