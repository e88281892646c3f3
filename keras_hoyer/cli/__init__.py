"""The command line: what needs no training, done with files.

Keras takes seconds to import, so nothing here imports it before the arguments, the files that are
read and the folder that is written to are found right: what runs a command imports what it needs.
"""

from keras_hoyer.cli.program import main

__all__ = ["main"]
