"""Further members of a sample that a recipe asks for (``data.extras``), one file for each kind.

A kind says how a member is read and how those of a batch are put together. None runs code of the file, and none takes
more memory than its limit.
"""
