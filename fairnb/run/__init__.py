"""The foundations of a run: parameters, its record, atomic files, content keys, seeds, devices and messages.

>>> from fairnb.run.keys import content_key, seeded
>>> content_key({"epochs": 3})  # the same content, the same key
'543da7abb83f'
>>> int(seeded(0, "folds").initial_seed() == seeded(0, "folds").initial_seed())
1
"""
