"""What an optimizer is: operators, operands and decays as tables; expressions over them; rules; the notations they are written in.

Nothing in here loads torch. The files, in order: `expression` (trees), `operators`, `operands` (the tables), `decays`, `rule`, `text`
(native notation), `lower` (straight-line programs), `interpret` (the numpy reference).
"""

from optevolve.space.decays import decay_values
from optevolve.space.expression import Node
from optevolve.space.operands import OPERANDS, Operand
from optevolve.space.operators import LEAVES, OPERATORS, Leaf, Operator, Parameter, register_operator
from optevolve.space.rule import KINDS, UpdateRule
from optevolve.space.text import parse, parse_expression

__all__ = [
    "KINDS",
    "LEAVES",
    "OPERANDS",
    "OPERATORS",
    "Leaf",
    "Node",
    "Operand",
    "Operator",
    "Parameter",
    "UpdateRule",
    "decay_values",
    "parse",
    "parse_expression",
    "register_operator",
]
