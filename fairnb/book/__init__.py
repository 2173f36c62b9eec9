"""What a page shows, and how chapters become the book: tables, figures, the explorer, glue; execution and rendering.

Nothing is imported here: papermill and Sphinx are slow, and a chapter needs neither.

>>> from fairnb.book.prose import counted
>>> counted(1), counted(2)
('one label', 'two labels')
"""
