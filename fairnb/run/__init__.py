"""What every run needs, whatever it searches: files that are whole or absent, keys, seeds, the device, words for mistakes.

>>> from fairnb.run.keys import content_key, seeded
>>> content_key({"epochs": 3})  # the same content, the same key
'543da7abb83f'
>>> int(seeded(0, "folds").initial_seed() == seeded(0, "folds").initial_seed())
1
"""
