"""From predictions to numbers and pictures."""

from jaxhand.evaluation.evaluator import Evaluator

__all__ = ["Evaluator"]
