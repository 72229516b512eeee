"""Networks of a run as files for other programs: StableHLO for JAX, ONNX for other runtimes.

`network.hand(RUN)` and `network.palm_detector(RUN)` return a `Network`: a function of crops with a description.
`formats.to_stablehlo(network, path)` and `formats.to_onnx(network, path)` write a file. `writing.export` writes
the files of a run, after `checking` has compared them with the run.
"""
