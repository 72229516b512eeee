"""From predictions to numbers and pictures."""

from jaxhand.evaluation.evaluator import Evaluator
from jaxhand.evaluation.streaming_evaluator import StreamingEvaluator

__all__ = ["Evaluator", "StreamingEvaluator"]
