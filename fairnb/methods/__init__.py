"""Methods.

>>> 1
1
"""
