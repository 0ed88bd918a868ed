"""The loss that training minimises.

Input: a `DetectorOutput` and the targets of a batch. matcher.py matches each object with a query of each group
(Hungarian matching). terms.py computes the terms of the loss from the matched pairs: class, box, GIoU and, for
segmenters, masks. criterion.py adds them up over decoder layers and proposals, and is called by training/module.py.
formulas.py has the arithmetic. Start reading with `Criterion.__call__`. To add a term, see `TERMS` in terms.py.
"""
