"""The book: tables, figures, the explorer and glue for its pages; execution and rendering of chapters.

>>> from fairnb.book.prose import counted
>>> counted(1), counted(2)
('one label', 'two labels')
"""
