"""What is this model? Sites, supports, plates, cost terms and their dependence.

`analyze` traces the model abstractly: nothing is compiled and nothing runs on a
device. All problems of a model are collected and reported in one error.
"""

from bbvi.analysis.analyzing import analyze
from bbvi.analysis.arguments import Arguments, read_arguments
from bbvi.analysis.structure import Analysis, Jump, Parameter, Plate, Site

__all__ = [
    "Analysis",
    "Arguments",
    "Jump",
    "Parameter",
    "Plate",
    "Site",
    "analyze",
    "read_arguments",
]
