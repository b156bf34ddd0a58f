"""What a frozen encoder knows of every part of a sample: labels, depths, objects, places and moments.

Formulas and the reading that they share; the questions themselves are files of ``foundation/tasks``.
"""
