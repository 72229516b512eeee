"""Evaluate predictions: metrics, benchmark protocols, checks for mistakes, and files for leaderboards."""

from jaxhand.evaluation.evaluator import Evaluator
from jaxhand.evaluation.streaming_evaluator import StreamingEvaluator

__all__ = ["Evaluator", "StreamingEvaluator"]
