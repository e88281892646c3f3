"""The command line, as `python -m keras_hoyer`."""

from keras_hoyer.cli import main

raise SystemExit(main())
