"""The embedded dataset: portraits drawn with CelebA's 40 attributes, whose labels follow CelebA's statistics.

>>> from fairnb.data.drawn.faces import draw_faces
>>> faces = draw_faces([8, 4, 4], seed=0, height=48, width=40)
>>> len(faces), tuple(faces.images[0].shape)
(16, (3, 48, 40))
"""

from fairnb.data.drawn.faces import draw_faces, draw_pairs

__all__ = ["draw_faces", "draw_pairs"]
